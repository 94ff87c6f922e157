"""CLS-ER: which teacher is asked, what it says, and how both follow (the teacher itself: core/test_teacher.py)."""

import pytest
import torch
from helpers.toys import fed, four, small, step, weights
from torch.nn.functional import mse_loss, normalize

from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp


@pytest.mark.parametrize("kept", ["stable", "plastic"])
def test_C3_C4_one_stays_at_the_beginning_while_the_other_is_the_plain_mean(kept):
    shares = {f"{key}_update_probability": float(key != kept) for key in ("stable", "plastic")}
    strategy, trail = small(CLSER, **shares), [weights(fed(small(CLSER)).backbone)]
    learner = fed(strategy, 0, 4, 8, each=lambda learner: trail.append(weights(learner.backbone)))
    assert "stable_chosen" in strategy.log()
    mean = torch.stack(trail).mean(0)
    for key in ("stable", "plastic"):
        expected = trail[0] if key == kept else mean
        torch.testing.assert_close(weights(getattr(strategy, key).backbone), expected, rtol=0, atol=1e-12)
        distance = float((weights(learner.backbone) - expected).norm())
        assert strategy.log()[f"{key}_distance"] == pytest.approx(distance)


def test_C7_the_surer_teacher_row_by_row_the_plastic_one_at_a_tie():
    """Unit vectors at hand-made angles: each teacher's probabilities follow from plain cosines."""
    strategy = small(CLSER, temperature=0.5)
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    sharp = torch.stack([east, north]), torch.stack([east, north])  # finds each of two, both ways
    blurred = torch.stack([east, north]), torch.stack([east, east])  # its two pictures look alike
    audio, video = strategy.choose((2 * sharp[0], 2 * sharp[1]), blurred)
    # by sound the stable one finds each with e^2 / (e^2 + 1), the other with 1/2: the stable one's pictures
    assert torch.equal(video, 2 * sharp[1])
    # by picture both find sound 0 with e^2 / (e^2 + 1): a tie
    assert torch.equal(audio, torch.stack([blurred[0][0], 2 * sharp[0][1]]))
    assert float(strategy._logged["stable_chosen"]) == 3 / 4
    audio, video = strategy.choose(sharp, (3 * sharp[0], 3 * sharp[1]))
    assert torch.equal(audio, 3 * sharp[0])
    assert torch.equal(video, 3 * sharp[1])
    assert float(strategy._logged["stable_chosen"]) == 0


def test_the_choice_against_the_formula():
    """q_i = softmax over the clips of cosine / temperature, at i; sound asks for video targets and back."""
    draw = torch.Generator().manual_seed(0)
    stable, plastic = (tuple(torch.randn(12, 6, generator=draw).double() for _ in range(2)) for _ in range(2))

    def q(query, key):
        return (normalize(query) @ normalize(key).T / 0.05).softmax(1).diagonal()

    by_audio = q(*stable) > q(*plastic)
    by_video = q(*stable[::-1]) > q(*plastic[::-1])
    audio, video = small(CLSER).choose(stable, plastic)
    assert torch.equal(video, torch.where(by_audio[:, None], stable[1], plastic[1]))
    assert torch.equal(audio, torch.where(by_video[:, None], stable[0], plastic[0]))
    assert 0 < by_audio.sum() < 12
    assert not torch.equal(by_audio, by_video)


@pytest.mark.parametrize("shared", [True, False])
def test_the_penalty_by_hand(monkeypatch, shared):
    """lambda times both mean squared errors, on the replayed rows only, targets under the student's masks."""
    strategy, targets = small(CLSER, reg_weight=0.7, share_masks=shared), []
    learner = fed(strategy, 0, 4, 8)
    monkeypatch.setattr(strategy, "choose", lambda stable, plastic: targets.append(stable) or stable)
    strategy.stable.update_probability = 0.0
    step(learner, four(12))
    (audio, video), output = targets[0], learner.output
    expected = 0.7 * (mse_loss(output.audio[4:], audio) + mse_loss(output.video[4:], video))
    torch.testing.assert_close(learner.losses["distillation"], expected.detach())
    seen = learner.masks[4:].seen(learner.batch[4:])
    assert torch.equal(strategy.stable.embed(seen)[0], audio) == shared


def test_it_also_holds_what_another_strategy_replays():
    """With a memory of nothing it adds only its teachers: here to DER++; without a past, nothing."""
    learner = fed([small(DERpp), small(CLSER, capacity=0)], 0)
    assert "distillation" not in learner.losses and "stable_chosen" not in learner.strategies[1].log()
    step(learner, four(4))
    assert list(learner.losses) == ["mae_audio", "mae_video", "contrastive", "drift", "distillation"]
    assert len(learner.batch) == 8
