"""GMED's edits against algebra, and what they must leave alone."""

import pytest
import torch
from helpers.toys import copy_of, enter, fed, four, held, numbers, points, quadratic_learner, small
from torch.func import functional_call

from avcl.clip import Clip
from avcl.lookahead import virtual_step
from avcl.plugins.er import ER
from avcl.plugins.gmed import GMED


def filled(**settings):
    """A strategy and a learner that has trained on 8 clips, all of which are in memory, about to see 4 more."""
    strategy = small(GMED, **settings)
    return strategy, enter(fed(strategy, 0, 4), four(8))


def on_parabola(past, **settings):
    """A strategy with ``past`` in memory, on the quadratic backbone at a learning rate of 0.2."""
    strategy = small(GMED, **settings)
    learner = quadratic_learner(strategy, rate=0.2)
    strategy.memory.add(points(past), **strategy.remember(enter(learner, points(past))))
    return strategy, learner


def test_G1_a_stride_of_nothing_leaves_memory_as_er_does():
    strategies = small(GMED, alpha=0.0), small(ER)
    for strategy in strategies:
        fed(strategy, 0, 4, 8)
    one, two = (held(strategy).clip for strategy in strategies)
    assert all(torch.equal(getattr(one, key), getattr(two, key)) for key in ("video", "audio", "index"))
    assert strategies[0].log()["video_edit"] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_G2_by_hand_on_a_parabola(sign):
    """edit = alpha / B [ eta (w - mean of the current) + s beta (x - w) ] for plain descent at rate eta."""
    draw = torch.Generator().manual_seed(0)
    past, current = torch.randn(5, 3, generator=draw).double(), torch.randn(3, 3, generator=draw).double()
    strategy, learner = on_parabola(past, alpha=0.7, beta=0.3, sign=sign)
    found = strategy.draw(enter(learner, points(current)))
    w, x = learner.backbone.w.detach(), past[found.slots]
    edit = 0.7 / 3 * (0.2 * (w - current.mean(0)) + sign * 0.3 * (x - w))
    torch.testing.assert_close(numbers(found.clip) - x, edit, rtol=0, atol=1e-15)
    video, sound = edit[:, :2].norm() / x[:, :2].norm(), edit[:, 2].norm() / x[:, 2].norm()
    assert strategy.log()["video_edit"] == pytest.approx(float(video))
    assert strategy.log()["audio_edit"] == pytest.approx(float(sound))


def test_G3_without_a_step_and_without_a_pull_nothing_is_edited():
    strategy = small(GMED, beta=0.0)
    learner = enter(fed(strategy, 0, 4, lr=0.0), four(8))
    clip = strategy.memory.read(torch.arange(4)).clip
    # in float64 but for the last bit, as in test_mir.py
    assert all(edit.abs().max() < 1e-14 for edit in strategy.edits(learner, clip).values())
    strategy.share_masks = False
    assert all(edit.abs().max() > 1e-8 for edit in strategy.edits(learner, clip).values())


def test_G4_only_the_drawn_rows_change_and_of_them_only_picture_sound_and_age():
    strategy, learner = filled(alpha=100.0)
    before = held(strategy)
    slots = strategy.draw(learner).slots
    after = held(strategy)
    others = torch.tensor(sorted(set(range(8)) - set(slots.tolist())))
    assert len(slots) == len(others) == 4
    for side in ("video", "audio"):
        old, new = getattr(before.clip, side), getattr(after.clip, side)
        assert torch.equal(old[others], new[others])
        assert all(not torch.equal(old[slot], new[slot]) for slot in slots)
        assert torch.equal(getattr(before.clip, f"{side}_at"), getattr(after.clip, f"{side}_at"))
    assert torch.equal(before.clip.index, after.clip.index)
    assert torch.equal(before.extra["age"][others], after.extra["age"][others])
    assert torch.equal(before.extra["age"][slots] + 1, after.extra["age"][slots])
    assert strategy.memory.seen == 8


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_G5_what_is_replayed_is_what_is_kept(dtype):
    strategy, learner = filled(alpha=100.0, dtype=dtype)
    strategy.prepare(learner)
    kept = strategy.memory.read(strategy._past.slots).clip
    assert torch.equal(learner.batch.video[4:], kept.video.double())
    assert torch.equal(learner.batch.audio[4:], kept.audio.double())
    assert torch.equal(learner.batch.index[4:], kept.index)
    assert kept.video.dtype is getattr(torch, dtype)
    assert not learner.batch.video.requires_grad


def test_G6_edits_of_a_clip_fade_and_a_new_clip_starts_anew():
    """On a parabola that does not move every full edit of a clip is the same but for the gamma; at 1 it never fades."""
    past = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).double()
    strategy, learner = on_parabola(past, alpha=1.0, beta=0.0, gamma=0.5, capacity=2)
    full, expected = 0.2 / 2 * learner.backbone.w.detach(), past
    enter(learner, points(torch.zeros(2, 3)))
    for factor in (1.0, 0.5, 0.25):
        strategy.draw(learner)
        expected = expected + factor * full
        torch.testing.assert_close(numbers(held(strategy).clip), expected)
    assert held(strategy).extra["age"].tolist() == [3, 3]
    while held(strategy).extra["age"].tolist() != [0, 0]:
        strategy.memory.add(points(past), **strategy.remember(learner))
    strategy.draw(learner)
    torch.testing.assert_close(numbers(held(strategy).clip), past[held(strategy).clip.index] + full)
    strategy.gamma, before = GMED().gamma, numbers(held(strategy).clip)
    for _ in range(20):
        strategy.draw(learner)
    torch.testing.assert_close(numbers(held(strategy).clip), before + 20 * full)


def test_G7_edited_clips_are_harmed_more_by_as_much_as_the_gradient_says(monkeypatch):
    """d loss(edited) - d loss(before) = alpha |g' - g|^2 to first order, with d loss = loss(w') - loss(w)."""
    strategy, learner = filled(alpha=1e-3, beta=0.0)
    backbone, clip = learner.backbone, strategy.memory.read(torch.arange(4)).clip
    masks = backbone.draw_masks(clip, torch.Generator().manual_seed(3))
    monkeypatch.setattr(backbone, "draw_masks", lambda *_: masks)
    ahead, edits = virtual_step(learner, learner.batch), strategy.edits(learner, clip)
    sides = {side: getattr(clip, side) + 1e-3 * edit for side, edit in edits.items()}
    edited = Clip(**clip.tensors() | sides)

    def harm(clip):
        with torch.no_grad():
            return functional_call(backbone, ahead, (clip, masks)).loss.mean() - backbone(clip, masks).loss.mean()

    gain = float(harm(edited) - harm(clip))
    assert gain == pytest.approx(1e-3 * float(sum(edit.square().sum() for edit in edits.values())), rel=1e-3)
    assert gain > 0


def test_the_edit_by_hand_on_a_real_backbone():
    """Both modalities, the beta, and the target that moves with the input."""
    strategy, learner = filled(alpha=0.5, beta=0.25)
    memory, masks = (copy_of(learner.generators[key]) for key in ("memory", "auxiliary"))
    before = held(strategy)
    found = strategy.draw(learner)
    slots = torch.randperm(8, generator=memory)[:4]
    assert torch.equal(found.slots, slots)
    learner.generators["auxiliary"].set_state(masks.get_state())
    ahead = virtual_step(learner, learner.batch)
    clip = before.clip[slots]
    seen = learner.backbone.draw_masks(clip, learner.generators["auxiliary"])
    leaves = clip.audio.requires_grad_(), clip.video.requires_grad_()
    first = torch.autograd.grad(learner.backbone(clip, seen).loss.mean(), leaves)
    second = torch.autograd.grad(functional_call(learner.backbone, ahead, (clip, seen)).loss.mean(), leaves)
    for side, leaf, g, later in zip(("audio", "video"), leaves, first, second, strict=True):
        torch.testing.assert_close(getattr(found.clip, side), leaf + 0.5 * (later - 0.75 * g), rtol=0, atol=1e-14)
    hidden = seen.hidden(clip).video_at[0, 0]
    assert first[1][0, hidden].abs().sum() > 0  # a patch that is only a target has a gradient too


def test_half_precision_that_overflows_edits_nothing():
    strategy = small(GMED)
    learner = enter(fed(strategy, 0, 4, dtype=torch.float32, precision="fp16"), four(8))
    learner.update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = held(strategy)
    with learner.autocast():
        past = strategy.draw(learner)
    assert len(past) == 4
    assert torch.equal(held(strategy).clip.video, before.clip.video)
    assert torch.equal(held(strategy).extra["age"], before.extra["age"])
