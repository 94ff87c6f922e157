"""Random patches and MATS: what is kept and how often (R4, where they are DER++: test_identities.py)."""

import pytest
import torch
from helpers.toys import Quadratic, clips, enter, fed, four, held, points, small_learner, step, watched
from helpers.toys import small as made

from avcl.backbones.cavmae import CavMae
from avcl.clip import Clip
from avcl.errors import SettingsError, UserError
from avcl.plugins import mats
from avcl.plugins.mats import MATS, motion
from avcl.plugins.random_patches import RandomPatches
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner

BOTH = pytest.mark.parametrize("cls", [RandomPatches, MATS])


def small(cls, **settings):
    """MATS draws audio too, unless asked not to."""
    return made(cls, **({"audio": "random"} if cls is MATS else {}) | settings)


def prepared(strategy, clip):
    """A learner whose ``strategy`` has chosen patches of ``clip``."""
    learner = enter(small_learner(strategy, torch.float64), clip)
    strategy.prepare(learner)
    return learner


# ---- random --------------------------------------------------------------------------------------------------


@BOTH
def test_R1_R3_T5_so_many_distinct_patches_of_every_clip_all_of_them_seen_or_guessed(cls):
    learner = small_learner(small(cls, keep_audio=0.75))
    seen = watched(learner)
    for first in (0, 4, 8):
        step(learner, four(first))
    assert [len(batch) for batch, _ in seen] == [4, 8, 8]
    for batch, masks in seen:
        for at, kept in ((batch.video_at, 4), (batch.audio_at, 6)):
            assert at.shape[1] == kept
            assert (at.diff(dim=1) > 0).all(), "distinct, in the order of their place"
        assert masks.video_visible == int(0.4 * 8), "a share of the grid, not of what was kept"
        assert torch.equal(masks.video.sort(1).values, torch.arange(4).expand(len(batch), -1))
        visible, hidden = masks.seen(batch).video_at, masks.hidden(batch).video_at
        assert visible.shape[1] == 3 and hidden.shape[1] == 1
        assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, batch.video_at)


def test_R2_every_patch_is_kept_as_often_as_any_other():
    rounds, patches, keep = 3000, 98, 49
    at = torch.arange(patches).expand(rounds, -1)
    clip = Clip(torch.zeros(rounds, patches, 1), torch.zeros(rounds, 1, 1), at, at[:, :1], at[:, 0])
    drawn = clip.draw("video", keep, torch.Generator().manual_seed(0))
    often = torch.bincount(drawn.flatten(), minlength=patches) / rounds
    assert ((often - 0.5).abs() / (0.25 / rounds) ** 0.5).max() < 4
    together = sum(bool({0, 1} <= set(row)) for row in drawn.tolist()) / rounds
    assert together == pytest.approx(keep * (keep - 1) / (patches * (patches - 1)), abs=4 * (0.19 / rounds) ** 0.5)


@BOTH
def test_R5_R6_kept_patches_are_the_clips_and_keep_their_place(cls):
    whole, tokens = four(0), []
    learner = prepared(small(cls), whole)
    for side in ("video", "audio"):
        at = getattr(learner.batch, f"{side}_at")[..., None].expand(-1, -1, getattr(whole, side).shape[2])
        assert torch.equal(getattr(learner.batch, side), getattr(whole, side).gather(1, at))
    learner.backbone.video.blocks[0].register_forward_pre_hook(lambda _, given: tokens.append(given[0]))
    for clip in (whole, learner.batch):
        learner.backbone.encode(clip)
    everything, kept = tokens
    at = learner.batch.video_at[..., None].expand(-1, -1, everything.shape[2])
    torch.testing.assert_close(kept, everything.gather(1, at))


@BOTH
@pytest.mark.parametrize("side", ["video", "audio"])
def test_R7_no_fewer_than_are_seen(cls, side):
    text = rf"^{cls.name}.keep_{side}: invalid value 0.3: keeps too few: .* 3 of 8 {side} patches.* keeps only 2"
    with pytest.raises(SettingsError, match=text):
        small_learner(small(cls, **{f"keep_{side}": 0.3}))


def test_every_replay_chooses_anew_from_whole_clips():
    strategy, chosen = small(RandomPatches, capacity=2), set()
    learner = fed(strategy)
    step(learner, clips(range(2)))
    assert held(strategy).clip.video.shape[1] == 8
    for _ in range(20):
        strategy.prepare(enter(learner, clips(range(2, 4))))
        chosen |= {(int(i), *at.tolist()) for i, at in zip(learner.batch.index, learner.batch.video_at, strict=True)}
    assert {row[0] for row in chosen} == {0, 1, 2, 3}
    assert len(chosen) > 40, "of 4 x 70"


# ---- MATS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "moved"),
    [
        pytest.param([[3, -1, 2]] * 3, [[0, 0, 0]] * 3, id="T1 nothing"),
        pytest.param(
            [[0, 0], [0, 0], [0, 5], [0, 0]], [[0, 0], [0, 0], [0, 5], [0, 5]], id="T2 a change, then and next"
        ),
        pytest.param([[1, 2], [4, 2.5], [4, 9]], [[3, 0.5], [3, 0.5], [0, 6.5]], id="T3 the first as the second"),
    ],
)
def test_what_moves_in_a_film_of_one_number_for_each_patch(frames, moved):
    film = torch.tensor(frames, dtype=torch.float64)
    assert motion(film.flatten()[None, :, None], len(frames))[0].view(film.shape).tolist() == moved


def test_motion_is_a_distance_over_all_of_an_embedding():
    embedded = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert motion(embedded, frames=2).tolist() == [[5.0, 5.0], [0.0, 0.0]]


def test_T4_an_image_added_to_every_frame_changes_nothing():
    backbone, clip = small_backbone(torch.float64), clips(range(4))
    image = torch.randn(4, 4, clip.video.shape[2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    brighter = Clip(**clip.tensors() | {"video": clip.video + image.repeat(1, 2, 1)})
    before, after = (motion(backbone.embed_patches(x)[1], frames=2) for x in (clip, brighter))
    assert before.min() > 0.1
    torch.testing.assert_close(after, before)


def test_T5_none_that_was_left_out_moves_more_than_one_that_was_kept():
    strategy = small(MATS, keep_video=0.75, capacity=0)
    learner = prepared(strategy, clips(range(8)))
    moved = motion(learner.backbone.embed_patches(learner.current)[1].float(), 2)
    # both frames of a patch move alike, so that pairs are kept whole
    kept = torch.zeros_like(moved, dtype=torch.bool).scatter(1, learner.batch.video_at, True)
    assert kept.sum(1).tolist() == [6] * 8
    assert (moved.masked_fill(~kept, torch.inf).amin(1) >= moved.masked_fill(kept, 0).amax(1)).all()
    assert strategy.log()["motion_kept"] == pytest.approx((moved * kept).sum(1).div(moved.sum(1)).mean().item())
    assert torch.equal(learner.batch.video_at, strategy.choose(learner, learner.current, 8, 6)[0]), "no luck in it"


def test_equal_motion_is_ranked_by_place():
    strategy, whole = small(MATS), four(0)
    still = Clip(**whole.tensors() | {"video": whole.video[:, :4].repeat(1, 2, 1)})
    assert torch.equal(prepared(strategy, still).batch.video_at, torch.arange(4).expand(4, -1))
    assert strategy.log()["motion_kept"] == 1


def test_T6_the_scale_of_embeddings_does_not_matter():
    strategy, chosen = small(MATS), []
    learner = fed(strategy, dtype=torch.float32)
    for scale in (1, 16):
        with torch.no_grad():
            learner.backbone.video.embed.weight.mul_(scale)
        chosen.append(strategy.choose(learner, clips(range(8), dtype=torch.float32), 8, 4)[0])
    assert torch.equal(*chosen)
    assert not torch.equal(chosen[0], chosen[0][:1].expand(8, -1)), "another clip, other patches"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_T7_motion_is_measured_exactly_and_without_gradient(monkeypatch, precision):
    given = []
    monkeypatch.setattr(mats, "motion", lambda x, frames: given.append(x) or motion(x, frames))
    fed(small(MATS), 0, 4, dtype=torch.float32, precision=precision)
    assert len(given) == 2
    assert {x.dtype for x in given} == {torch.float32}
    assert not any(x.requires_grad for x in given)


def test_audio_is_whole_unless_asked_for():
    assert MATS().settings()["audio"] == "full"
    for settings, patches in (({"audio": "full", "keep_audio": 0.1}, 8), ({"audio": "random"}, 4)):
        batch = prepared(small(MATS, **settings), four(0)).batch
        assert (batch.audio_at.shape, batch.video_at.shape) == ((4, patches), (4, 4))


def test_a_single_frame_does_not_move():
    backbone = CavMae(**Noise().shape._replace(frames=1)._asdict(), size="tiny")
    with pytest.raises(UserError, match=r"^mats: clips of 1 frame do not move; let the scenario give 2 frames or more"):
        Learner(backbone=backbone, strategy=MATS())


def test_a_backbone_without_an_embedding_shows_the_numbers_of_its_patches():
    clip = points(torch.tensor([[1.0, 2.0, 3.0]]))
    audio, video = Quadratic().embed_patches(clip)
    assert torch.equal(audio, clip.audio) and torch.equal(video, clip.video)
