"""Source localization: heat maps by hand, the control, and scores that depend on the model alone."""

import math

import pytest
import torch

from avcl.backbones.cavmae import CavMae
from avcl.clip import Grid
from avcl.errors import UserError
from avcl.evaluation.features import all_clips, read
from avcl.evaluation.heat_maps import Means, cosine, heat_maps, nearness, projection
from avcl.evaluation.protocol import Frozen, evaluated
from avcl.evaluation.source_localization import OtherSound, SourceLocalization
from avcl.plugins.stella.matching import Matching
from avcl.scenarios.synthetic import Synthetic
from avcl.testing import Noise

TINY = {"frames": 2, "height": 64, "width": 64, "times": 64, "mels": 32}


def frozen(matching=True, **options):
    torch.manual_seed(0)
    model = CavMae(size="tiny", **TINY)
    modules = {"matching": Matching(model.dim, 4)} if matching else {}
    scenario = Synthetic(**TINY, tasks=1, classes=2, train_clips=4, eval_clips=6)
    return Frozen(backbone=model, scenario=scenario, modules=modules, **options)


def test_cosine_and_projection_by_hand():
    audio = torch.tensor([[[4.0, 0.0], [0.0, 2.0], [2.0, 7.0]]])  # mean (2, 3)
    video = torch.tensor([[[2.0, 3.0], [-3.0, 2.0], [-4.0, -6.0], [1.0, 0.0]]])
    assert cosine(audio, video)[0].tolist() == pytest.approx([1, 0, -1, 2 / math.sqrt(13)], abs=1e-6)
    assert projection(audio, video)[0].tolist() == pytest.approx(
        [math.sqrt(13), 0, -2 * math.sqrt(13), 2 / math.sqrt(13)], abs=1e-6
    )


def test_nearness_by_hand():
    heat = nearness(Grid(2, 1, 4, 1, 1))
    assert heat.tolist() == pytest.approx([-3 / 8, -1 / 8, -1 / 8, -3 / 8] * 2)


def test_the_maps_of_a_model():
    model = frozen()
    clips = all_clips(model, "eval")
    means = Means.over(model, clips, list(range(12)))
    _, clip = next(read(model, clips))
    with torch.no_grad():
        audio, video = model.backbone.encode(clip)
        assert torch.allclose(means.video, video.double().mean((0, 1)))
        maps = heat_maps(model, clip, means, 0.4)
        fused = model.backbone.tokens(clip)
    assert list(maps) == ["matching", "cosine", "cosine_fused", "projection", "centre", "energy"]
    assert all(heat.shape == (12, model.backbone.grid.video) for heat in maps.values())
    assert torch.allclose(maps["matching"].sum(1), torch.ones(12))
    assert torch.equal(maps["cosine"], cosine(audio, video)) and torch.equal(maps["cosine_fused"], cosine(*fused))
    assert torch.equal(maps["energy"], clip.video.var(2))
    assert "matching" not in heat_maps(frozen(matching=False), clip, means, 0.4)


def test_importance_is_what_stella_selects_by():
    module = Matching(16, 4)
    audio, video = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    a, v = module.split(audio, video)
    by_hand = [
        (query @ key.mT * module.scale / 0.4).softmax(3).mean((1, 2)) for query, key in ((v[0], a[1]), (a[0], v[1]))
    ]
    for found, expected in zip(module.importance(audio, video, 0.4), by_hand, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_another_sound_is_the_next_clips():
    clips = all_clips(frozen(), "eval")
    other = OtherSound(clips)
    assert len(other) == 12
    assert torch.equal(other[11]["mel"], clips[0]["mel"]) and torch.equal(other[11]["frames"], clips[11]["frames"])


def test_scores_depend_on_the_model_alone():
    evaluation = SourceLocalization(mean_clips=5)
    one, same = (evaluated(evaluation, frozen(batch_size=size)).about() for size in (32, 5))
    assert one["clips"] == 12
    assert one["scores"].keys() == one["chance"].keys() == same["scores"].keys()
    assert one["baselines"] == same["baselines"]
    for key in one["scores"]:  # rounding may order pixels that are nearly as hot anew
        assert same["scores"][key] == pytest.approx(one["scores"][key], abs=1)
    energy, centre = (one["baselines"][name]["pointing"] for name in ("energy", "centre"))
    assert energy > centre  # the source is the most vivid


def test_a_picture_says_the_same_twice(tmp_path):
    for name in ("one.png", "two.png"):
        evaluated(SourceLocalization(mean_clips=2, picture=str(tmp_path / name)), frozen())
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file: a file is where a folder must be; choose another place$"):
        evaluated(SourceLocalization(mean_clips=2, picture=str(tmp_path / "file" / "x.png")), frozen())


def test_clips_without_masks_are_refused():
    model = Frozen(backbone=frozen().backbone, scenario=Noise())
    with pytest.raises(UserError, match=r"source_localization: clips of scenario .* have no masks"):
        SourceLocalization().evaluate(model)
