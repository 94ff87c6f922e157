"""Random patches and MATS: what is kept, how often, and where they must fall back to DER++."""

import pytest
import torch
from helpers.toys import Passes, Quadratic, clips, enter, points, step, train

from avcl.backbones.cavmae import CavMae
from avcl.clip import Clip, random_positions
from avcl.errors import SettingsError, UserError
from avcl.memory import Memory
from avcl.plugins import mats
from avcl.plugins.derpp import DERpp
from avcl.plugins.mats import MATS, motion
from avcl.plugins.random_patches import RandomPatches
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner

BOTH = pytest.mark.parametrize("cls", [RandomPatches, MATS])


def small(cls, **settings):
    """MATS draws audio too, unless asked not to."""
    audio = {"audio": "random"} if cls is MATS else {}
    return cls(**{"memory": Memory(capacity=8)} | audio | settings)


def watched(learner):
    """Every batch that the backbone is given, with its masks, as training goes on."""
    seen, forward = [], learner.forward

    def watch():
        seen.append((learner.batch, learner.masks))
        return forward()

    learner.forward = watch
    return seen


def same_weights_as_derpp(make_learner, cls, **settings):
    """Both trained in float64 on two tasks, 25 steps and more."""
    memory = [Memory(capacity=8, dtype="float64") for _ in range(2)]
    strategies = small(cls, memory=memory[0], **settings), DERpp(memory=memory[1])
    made = [make_learner(strategy, torch.float64, epochs=4) for strategy in strategies]
    ours, theirs = (train(learner, Noise()) for learner in made)
    assert made[0].steps == 32
    return torch.equal(ours, theirs)


# ---- random --------------------------------------------------------------------------------------------------


@BOTH
def test_R1_T5_so_many_distinct_patches_of_every_clip(noise, make_learner, cls):
    learner = make_learner(small(cls, keep_audio=0.75), epochs=1)
    seen = watched(learner)
    train(learner, noise)
    assert [len(batch) for batch, _ in seen] == [4] + [8] * 7
    for batch, _ in seen:
        for at, kept in ((batch.video_at, 4), (batch.audio_at, 6)):
            assert at.shape[1] == kept
            assert (at.diff(dim=1) > 0).all(), "distinct, in the order of their place"


def test_R2_every_patch_is_kept_as_often_as_any_other():
    rounds, patches, keep = 3000, 98, 49
    drawn = random_positions(torch.zeros(rounds, patches), keep, torch.Generator().manual_seed(0))
    often = torch.bincount(drawn.flatten(), minlength=patches) / rounds
    assert ((often - 0.5).abs() / (0.25 / rounds) ** 0.5).max() < 4
    together = sum(bool({0, 1} <= set(row)) for row in drawn.tolist()) / rounds
    assert together == pytest.approx(keep * (keep - 1) / (patches * (patches - 1)), abs=4 * (0.19 / rounds) ** 0.5)


@BOTH
def test_R3_what_is_seen_and_what_is_to_be_guessed_are_all_that_was_kept(noise, make_learner, cls):
    learner = make_learner(small(cls), epochs=1)
    seen = watched(learner)
    train(learner, noise)
    for batch, masks in seen:
        assert masks.video_visible == int(0.4 * 8), "a share of the grid, not of what was kept"
        assert torch.equal(masks.video.sort(1).values, torch.arange(4).expand(len(batch), -1))
        visible, hidden = masks.seen(batch).video_at, masks.hidden(batch).video_at
        assert visible.shape[1] == 3 and hidden.shape[1] == 1
        assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, batch.video_at)


@BOTH
def test_R4_everything_kept_is_derpp(make_learner, cls):
    assert same_weights_as_derpp(make_learner, cls, keep_video=1.0, keep_audio=1.0)
    assert not same_weights_as_derpp(make_learner, cls)


def test_R4_with_whole_audio_and_all_of_video_mats_is_derpp(make_learner):
    assert same_weights_as_derpp(make_learner, MATS, keep_video=1.0, keep_audio=0.5, audio="full")


@BOTH
def test_R5_kept_patches_keep_their_place(make_learner, cls):
    strategy = small(cls)
    learner = make_learner(strategy)
    whole = clips(range(4), dtype=torch.float32)
    enter(learner, whole)
    strategy.prepare(learner)
    tokens = []
    hook = learner.backbone.video.blocks[0].register_forward_pre_hook(lambda _, given: tokens.append(given[0]))
    for clip in (whole, learner.batch):
        learner.backbone.encode(clip)
    hook.remove()
    everything, kept = tokens
    at = learner.batch.video_at[..., None].expand(-1, -1, everything.shape[2])
    torch.testing.assert_close(kept, everything.gather(1, at))


@BOTH
def test_R6_kept_patches_put_back_are_the_clip_there_and_nothing_elsewhere(make_learner, cls):
    strategy = small(cls)
    learner = make_learner(strategy)
    whole = clips(range(4), dtype=torch.float32)
    strategy.prepare(enter(learner, whole))
    for side in ("video", "audio"):
        full, at = getattr(whole, side), getattr(learner.batch, f"{side}_at")[..., None]
        back = torch.zeros_like(full).scatter(1, at.expand(-1, -1, full.shape[2]), getattr(learner.batch, side))
        kept = torch.zeros(full.shape[:2], dtype=torch.bool).scatter(1, at[..., 0], True)[..., None]
        assert torch.equal(back, full * kept)


@BOTH
@pytest.mark.parametrize("side", ["video", "audio"])
def test_R7_no_fewer_than_are_seen(make_learner, cls, side):
    text = rf"^{cls.name}.keep_{side}: invalid value 0.3: keeps too few: mask_ratio: .* 3 of 8 {side} patches.* keeps only 2"
    with pytest.raises(SettingsError, match=text):
        make_learner(small(cls, **{f"keep_{side}": 0.3}))


def test_every_replay_chooses_anew_from_whole_clips(make_learner):
    strategy = small(RandomPatches, memory=Memory(capacity=2))
    learner = make_learner(strategy)
    step(learner, clips(range(2), dtype=torch.float32))
    assert strategy.memory.read(torch.arange(2)).clip.video.shape[1] == 8
    chosen = set()
    for _ in range(20):
        strategy.prepare(enter(learner, clips(range(2, 4), dtype=torch.float32)))
        chosen |= {(int(i), *at.tolist()) for i, at in zip(learner.batch.index, learner.batch.video_at, strict=True)}
    assert {row[0] for row in chosen} == {0, 1, 2, 3}
    assert len(chosen) > 40, "of 4 x 70"


@BOTH
def test_one_pass_forward_and_one_back(make_learner, cls):
    learner = make_learner(small(cls))
    passes = Passes(learner.backbone)
    for first in (0, 4):
        passes.clear()
        step(learner, clips(range(first, first + 4), dtype=torch.float32))
        # MATS embeds patches once more, and does nothing with them that a pass would
        assert (passes.count["forward"], passes.count["backward"]) == (1, 1)
    assert passes.clips[-1] == 8


# ---- MATS ----------------------------------------------------------------------------------------------------


def film(*frames):
    """A batch of one film (1, T * L, 1) of one number for each patch of each frame."""
    return torch.tensor(frames, dtype=torch.float64).flatten()[None, :, None], len(frames)


def test_T1_nothing_moves():
    still = [3.0, -1.0, 2.0]
    assert motion(*film(still, still, still)).abs().max() == 0


def test_T2_a_patch_that_changes_in_one_frame_moves_there_and_in_the_next():
    still, changed = [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]
    assert motion(*film(still, still, changed, still))[0].view(4, 3).tolist() == [still, still, changed, changed]


def test_T3_the_first_frame_moves_as_the_second():
    found = motion(*film([1.0, 2.0], [4.0, 2.5], [4.0, 9.0]))[0].view(3, 2)
    assert found.tolist() == [[3.0, 0.5], [3.0, 0.5], [0.0, 6.5]]


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


def test_T5_none_that_was_left_out_moves_more_than_one_that_was_kept(make_learner):
    strategy = small(MATS, keep_video=0.75, memory=Memory(capacity=0))
    learner = make_learner(strategy)
    strategy.prepare(enter(learner, clips(range(8), dtype=torch.float32)))
    moved = motion(learner.backbone.embed_patches(learner.current)[1], 2)
    # both frames of a patch move alike, so that pairs are kept whole
    kept = torch.zeros_like(moved, dtype=torch.bool).scatter(1, learner.batch.video_at, True)
    assert kept.sum(1).tolist() == [6] * 8
    assert (moved.masked_fill(~kept, torch.inf).amin(1) >= moved.masked_fill(kept, 0).amax(1)).all()
    assert strategy.log()["motion_kept"] == pytest.approx((moved * kept).sum(1).div(moved.sum(1)).mean().item())
    assert torch.equal(learner.batch.video_at, strategy.choose(learner, learner.current, 8, 6)[0]), "no luck in it"


def test_equal_motion_is_ranked_by_place(make_learner):
    strategy = small(MATS)
    learner = make_learner(strategy)
    whole = clips(range(4), dtype=torch.float32)
    still = Clip(**whole.tensors() | {"video": whole.video[:, :4].repeat(1, 2, 1)})
    strategy.prepare(enter(learner, still))
    assert torch.equal(learner.batch.video_at, torch.arange(4).expand(4, -1))
    assert strategy.log()["motion_kept"] == 1


def test_T6_the_scale_of_embeddings_does_not_matter(make_learner):
    strategy = small(MATS)
    learner = make_learner(strategy)
    chosen = []
    for scale in (1, 16):
        with torch.no_grad():
            learner.backbone.video.embed.weight.mul_(scale)
        chosen.append(strategy.choose(learner, clips(range(8), dtype=torch.float32), 8, 4)[0])
    assert torch.equal(*chosen)
    assert not torch.equal(chosen[0], chosen[0][:1].expand(8, -1)), "another clip, other patches"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_T7_motion_is_measured_exactly_and_without_gradient(noise, make_learner, monkeypatch, precision):
    given = []
    monkeypatch.setattr(mats, "motion", lambda x, frames: given.append(x) or motion(x, frames))
    train(make_learner(small(MATS), epochs=1, precision=precision), noise)
    assert len(given) == 8
    assert {x.dtype for x in given} == {torch.float32}
    assert not any(x.requires_grad for x in given)


def test_audio_is_whole_unless_asked_for(make_learner):
    assert MATS().settings()["audio"] == "full"
    for audio, patches in (("full", 8), ("random", 4)):
        strategy = small(MATS, audio=audio)
        learner = make_learner(strategy)
        strategy.prepare(enter(learner, clips(range(4), dtype=torch.float32)))
        assert learner.batch.audio_at.shape == (4, patches)
        assert learner.batch.video_at.shape == (4, 4)
    make_learner(small(MATS, audio="full", keep_audio=0.1))  # of which nothing is asked then


def test_a_single_frame_does_not_move():
    backbone = CavMae(**Noise().shape._replace(frames=1)._asdict(), size="tiny")
    with pytest.raises(UserError, match=r"^mats: clips of 1 frame do not move; let the scenario give 2 frames or more"):
        Learner(backbone=backbone, strategy=MATS())


def test_a_backbone_without_an_embedding_shows_the_numbers_of_its_patches():
    clip = points(torch.tensor([[1.0, 2.0, 3.0]]))
    audio, video = Quadratic().embed_patches(clip)
    assert torch.equal(audio, clip.audio) and torch.equal(video, clip.video)
