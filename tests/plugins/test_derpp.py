"""DER++: what is stored, what is penalised, and where the floor of the penalty is (D1: test_identities.py)."""

import pytest
import torch
from helpers.toys import clips, fed, held, small, step

from avcl.plugins.derpp import DERpp


def test_D2_a_frozen_net_that_sees_the_same_patches_does_not_drift(monkeypatch):
    learner = fed(small(DERpp), lr=0.0)
    mask = learner.backbone.draw_masks(clips([0]), torch.Generator().manual_seed(0))
    monkeypatch.setattr(learner.backbone, "draw_masks", lambda clip, _=None: mask[[0] * len(clip)])
    for first in (0, 4, 8):
        step(learner, clips(range(first, first + 4)))
        assert float(learner.losses.get("drift", 0.0)) < 1e-30


def test_D3_D4_under_random_masks_even_a_frozen_net_drifts_and_the_penalty_is_linear_in_alpha():
    one, two = (fed(small(DERpp, alpha=alpha), 0, 4, lr=0.0).losses["drift"].item() for alpha in (0.5, 1.0))
    assert two == pytest.approx(2 * one)
    assert one > 1e-6


def test_D4_the_drift_by_hand_from_constants():
    strategy = small(DERpp, alpha=0.7)
    learner = fed(strategy, 0, 4)
    output, was = learner.output, strategy._past.extra
    assert not any(row.requires_grad for row in was.values())
    audio, video = ((getattr(output, a)[4:] - was[f"{a}_embedding"]).square().mean() for a in ("audio", "video"))
    torch.testing.assert_close(learner.losses["drift"], 0.7 * (audio + video).detach())


def test_D5_a_row_holds_the_embeddings_of_the_step_when_it_was_stored():
    """And goes with its clip when the slot is taken by another."""
    strategy, said = small(DERpp, capacity=6), {}

    def note(learner):
        for row, index in enumerate(learner.current.index.tolist()):
            said[index] = learner.output.audio[row], learner.output.video[row]

    fed(strategy, 0, 4, 8, 12, each=note)
    kept = held(strategy)
    assert kept.clip.index.max() > 5
    assert kept.extra["audio_embedding"].shape == (6, 24)
    for row, index in enumerate(kept.clip.index.tolist()):
        assert torch.equal(kept.extra["audio_embedding"][row], said[index][0])
        assert torch.equal(kept.extra["video_embedding"][row], said[index][1])


def test_D6_the_order_of_the_past_does_not_matter():
    strategy = small(DERpp)
    learner = fed(strategy, 0, 4)
    order = torch.tensor([2, 0, 3, 1])
    stored = [strategy._past.extra[f"{side}_embedding"] for side in ("audio", "video")]
    straight = strategy.drift(learner, *stored)
    rows = torch.cat([torch.arange(4), 4 + order])
    learner.output = type(learner.output)({}, learner.output.video[rows], learner.output.audio[rows])
    shuffled = strategy.drift(learner, *(rows[order] for rows in stored))
    torch.testing.assert_close(straight, shuffled, rtol=1e-14, atol=0)
