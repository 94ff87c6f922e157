"""DER++: what is stored, what is penalised, and where the floor of the penalty is."""

import pytest
import torch
from helpers.toys import clips, step, train

from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER


def derpp(alpha=0.5, capacity=8):
    return DERpp(alpha=alpha, memory=Memory(capacity=capacity, dtype="float64"))


def same_masks(learner, monkeypatch):
    """Every clip is always seen through the same mask."""
    mask = learner.backbone.draw_masks(clips([0]), torch.Generator().manual_seed(0))
    monkeypatch.setattr(learner.backbone, "draw_masks", lambda clip, _=None: mask[[0] * len(clip)])


def test_D1_without_weight_it_is_er_bit_for_bit(make_learner):
    strategies = derpp(0.0), ER(memory=Memory(capacity=8, dtype="float64"))
    assert torch.equal(*(train(make_learner(strategy, torch.float64)) for strategy in strategies))


def test_D2_a_frozen_net_that_sees_the_same_patches_does_not_drift(make_learner, monkeypatch):
    learner = make_learner(derpp(), torch.float64, lr=0.0)
    same_masks(learner, monkeypatch)
    for start in (0, 4, 8):
        step(learner, clips(range(start, start + 4)))
        assert float(learner.losses.get("drift", 0.0)) < 1e-30


def test_D3_under_random_masks_even_a_frozen_net_seems_to_drift(make_learner):
    learner = make_learner(derpp(), torch.float64, lr=0.0)
    for start in (0, 4, 8):
        step(learner, clips(range(start, start + 4)))
    assert float(learner.losses["drift"]) > 1e-6


def test_D4_targets_are_constants_and_the_penalty_is_linear_in_alpha(make_learner):
    values = {}
    for alpha in (0.5, 1.0):
        strategy = derpp(alpha)
        learner = make_learner(strategy, torch.float64, lr=0.0)
        for start in (0, 4):
            step(learner, clips(range(start, start + 4)))
        assert not any(row.requires_grad for row in strategy._past.extra.values())
        values[alpha] = float(learner.losses["drift"])
    assert values[1.0] == pytest.approx(2 * values[0.5])


def test_the_drift_by_hand(make_learner):
    strategy = derpp(0.7)
    learner = make_learner(strategy, torch.float64)
    for start in (0, 4):
        step(learner, clips(range(start, start + 4)))
    output, was = learner.output, strategy._past.extra
    drifts = [
        ((getattr(output, side)[4:] - was[f"{side}_embedding"]) ** 2).mean().detach() for side in ("audio", "video")
    ]
    torch.testing.assert_close(learner.losses["drift"], 0.7 * (drifts[0] + drifts[1]))


def test_D5_a_row_holds_the_embeddings_of_the_step_when_it_was_stored(make_learner):
    """And goes with its clip when the slot is taken by another."""
    strategy, said = derpp(capacity=6), {}
    learner = make_learner(strategy, torch.float64)
    for start in range(0, 16, 4):
        step(learner, clips(range(start, start + 4)))
        for row, index in enumerate(learner.current.index.tolist()):
            said[index] = learner.output.audio[row].detach(), learner.output.video[row].detach()
    kept = strategy.memory.read(torch.arange(6))
    assert kept.clip.index.max() > 5
    for row, index in enumerate(kept.clip.index.tolist()):
        assert torch.equal(kept.extra["audio_embedding"][row], said[index][0])
        assert torch.equal(kept.extra["video_embedding"][row], said[index][1])
    assert kept.extra["audio_embedding"].shape == (6, 24)


def test_D6_the_order_of_the_past_does_not_matter(make_learner):
    learner = make_learner(derpp(), torch.float64)
    strategy = learner.strategies[0]
    for start in (0, 4):
        step(learner, clips(range(start, start + 4)))
    order = torch.tensor([2, 0, 3, 1])
    stored = strategy._past.extra
    straight = strategy.drift(learner, stored["audio_embedding"], stored["video_embedding"])
    rows = torch.cat([torch.arange(4), 4 + order])
    learner.output = type(learner.output)({}, learner.output.video[rows], learner.output.audio[rows])
    shuffled = strategy.drift(learner, stored["audio_embedding"][order], stored["video_embedding"][order])
    torch.testing.assert_close(straight, shuffled, rtol=1e-14, atol=0)
