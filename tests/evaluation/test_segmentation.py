"""Segmentation on a frozen model: what is trained, on which masks, with which clips; the command on AVSBench."""

import json

import pytest
import torch
from helpers.avsbench import SMALL, avsbench
from torch.nn.functional import binary_cross_entropy_with_logits
from typer.testing import CliRunner

from avcl.backbones.cavmae import CavMae
from avcl.backbones.weights import load_weights, save_weights
from avcl.cli.main import app
from avcl.errors import UserError
from avcl.evaluation.features import all_clips, read
from avcl.evaluation.masks import masks_of
from avcl.evaluation.protocol import Frozen, evaluated
from avcl.evaluation.segmentation import Segmentation, dense, first_frame_loss, predict
from avcl.scenarios.synthetic import Synthetic
from avcl.testing import Noise

TINY = {"frames": 2, "height": 32, "width": 32, "times": 64, "mels": 32}


def backbone(**shape):
    torch.manual_seed(0)
    return CavMae(size="tiny", **TINY | shape)


def frozen(scenario=None, **options):
    scenario = scenario or Synthetic(**TINY, tasks=1, classes=2, train_clips=12, eval_clips=5, object=0.9)
    return Frozen(backbone=backbone(), scenario=scenario, **options)


def small(**settings):
    return Segmentation(**{"epochs": 2, "batch_size": 4, "lr": 0.01, "warmup": 0, "width": 8} | settings)


def test_scores_depend_on_the_seed_alone():
    one = evaluated(small(), frozen(batch_size=32)).about()
    with torch.no_grad():  # as where a run evaluates
        assert evaluated(small(), frozen(batch_size=3)).about() == one
    assert evaluated(small(), frozen(batch_size=3, workers=2)).about() == one
    assert evaluated(small(), frozen(seed=1)).about()["scores"] != one["scores"]
    assert one["clips"] == 10 and one["train_clips"] == 22 and one["held_out_clips"] == 2
    assert set(one["scores"]) == set(one["chance"]) == {"miou", "f_score", "f_score_fixed"}
    best = max(one["baselines"]["centre_box"]["miou"], one["baselines"]["centre_disc"]["miou"])
    assert one["chance"]["miou"] == best > one["baselines"]["background"]["miou"] == 0


def test_every_parameter_of_the_decoder_and_none_of_the_model_is_trained(monkeypatch):
    model, given = frozen(), []
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    made, optimizer = [], torch.optim.AdamW

    def watched(groups, **settings):
        given.extend(p for group in groups for p in group["params"])
        return optimizer(groups, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", watched)
    decoder = Segmentation.decoder
    monkeypatch.setattr(Segmentation, "decoder", lambda *a: made.append(decoder(*a)) or made[-1])
    evaluated(small(epochs=1), model)
    assert sorted(map(id, given)) == sorted(map(id, made[0].parameters()))
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())
    assert all(p.grad is None for p in model.backbone.parameters())


class FirstOnly(Synthetic):
    """Frames after the first have another mask."""

    def clips(self, task, split):
        clips = super().clips(task, split)
        truth = clips.truth

        def changed(number):
            found = truth(number)
            found.mask[1:] = ~found.mask[1:]
            return found

        clips.truth = changed
        return clips


def test_the_loss_is_that_of_the_first_frame():
    model = frozen()
    other = frozen(FirstOnly(**model.scenario.settings()))
    decoder = small().decoder(model).eval()
    numbers, found = [3, 1], []
    for one in (model, other):
        clips = all_clips(one, "train")
        found.append(first_frame_loss(decoder, one, clips, numbers, 4))
    assert found[0].item() == found[1].item() > 0
    clips = all_clips(model, "eval")
    (_, clip), truth = next(read(model, clips)), masks_of(clips, range(10))
    features = dense(model, clip)
    logits = decoder(features.video, features.audio, 32, 32)[:, 0]
    by_hand = binary_cross_entropy_with_logits(logits, truth.mask[:, 0].float())
    model.scenario.fresh = False  # read the training clips unaugmented: none of synthetic's augmentation is left
    train = all_clips(model, "train")
    assert first_frame_loss(decoder, model, train, list(range(10)), 0).item() != pytest.approx(by_hand.item())
    with_eval = first_frame_loss(decoder, model, clips, list(range(10)), 0)
    assert with_eval.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_all_frames_are_scored():
    model = frozen()
    decoder = small().decoder(model).eval()
    scores = predict(decoder, model, all_clips(model, "eval"))
    assert torch.cat(scores.ious).shape == (20,)  # 10 clips of 2 frames


@pytest.mark.slow
def test_the_default_on_synthetic_finds_the_source():
    scenario = Synthetic()
    weights = load_weights(scenario.bundled_weights)
    model = CavMae(**weights.settings)
    weights.fill(model)
    found = evaluated(Segmentation.for_scenario(scenario), Frozen(backbone=model, scenario=scenario))
    assert found.scores["miou"] > 3 * found.chance["miou"] and found.scores["f_score"] > 3 * found.chance["f_score"]


def test_clips_without_masks_are_refused():
    noise = Noise()
    with pytest.raises(UserError) as wrong:
        small().evaluate(frozen(noise))
    assert "segmentation: clips of scenario" in str(wrong.value) and "have no masks; 'avsbench'" in str(wrong.value)


def test_the_command_on_the_published_layout(tmp_path):
    """Five frames a clip for a backbone that takes four, and training clips of which one frame has a mask."""
    root = avsbench(tmp_path / "avsbench")
    weights, run, out = tmp_path / "weights.safetensors", tmp_path / "run.yaml", tmp_path / "scores.json"
    save_weights(weights, backbone(frames=4, times=128))
    run.write_text(json.dumps({"scenario": {"name": "avsbench", "root": str(root), **SMALL}}))
    picture = tmp_path / "masks.png"
    words = ["eval", weights, "segmentation", "source_localization", "--config", run, "--out", out]
    words += ["--set", "segmentation.epochs=1", "--set", f"segmentation.picture={picture}"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["segmentation"]["clips"] == 3 and found["segmentation"]["held_out_clips"] == 2  # those of val
    assert found["segmentation"]["train_clips"] == 6
    assert found["source_localization"]["baselines"]["energy"]["pointing"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
