"""CLS-ER: which teacher is asked, what it says, and how both follow."""

import pytest
import torch
from helpers.toys import clips, enter, step, train
from torch.nn.functional import mse_loss, normalize

from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER


def cls_er(**settings):
    return CLSER(**{"memory": Memory(capacity=8, dtype="float64")} | settings)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_C3_shares_of_nothing_leave_both_at_the_beginning(make_learner):
    strategy = cls_er(stable_update_probability=0.0, plastic_update_probability=0.0)
    learner = make_learner(strategy, torch.float64)
    start = flat(learner.backbone).clone()
    train(learner)
    assert torch.equal(flat(strategy.stable.backbone), start)
    assert torch.equal(flat(strategy.plastic.backbone), start)
    moved = float((flat(learner.backbone) - start).norm())
    log = strategy.log()
    assert log["stable_distance"] == log["plastic_distance"] == pytest.approx(moved)


def test_C4_with_every_step_followed_both_are_the_plain_mean(make_learner):
    strategy = cls_er(stable_update_probability=1.0, plastic_update_probability=1.0)
    learner = make_learner(strategy, torch.float64)
    trail = [flat(learner.backbone)]
    for start in range(0, 12, 4):
        step(learner, clips(range(start, start + 4)))
        trail.append(flat(learner.backbone))
    for teacher in (strategy.stable, strategy.plastic):
        torch.testing.assert_close(flat(teacher.backbone), torch.stack(trail).mean(0), rtol=0, atol=1e-12)


def test_the_plastic_one_moves_more_often(make_learner):
    strategy = cls_er(stable_update_probability=0.2, plastic_update_probability=0.9)
    learner = make_learner(strategy, torch.float64)
    moves = {"stable": 0, "plastic": 0}
    for number in range(40):
        before = {key: flat(getattr(strategy, key).backbone) for key in moves}
        step(learner, clips([number % 16]))
        for key in moves:
            moves[key] += not torch.equal(before[key], flat(getattr(strategy, key).backbone))
    assert abs(moves["stable"] - 8) <= 10
    assert abs(moves["plastic"] - 36) <= 7
    assert moves["stable"] < moves["plastic"]


def test_C6_teachers_have_no_gradient_and_no_place_in_the_optimizer(make_learner):
    strategy = cls_er()
    learner = make_learner(strategy, torch.float64)
    train(learner)
    teachers = [p for module in (strategy.stable, strategy.plastic) for p in module.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in teachers)
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in teachers}
    assert held == {id(p) for p in learner.backbone.parameters() if p.requires_grad}


def test_C7_the_surer_teacher_row_by_row_the_plastic_one_at_a_tie():
    """Unit vectors at hand-made angles: each teacher's probabilities follow from plain cosines."""
    strategy = cls_er(temperature=0.5)
    strategy._logged = {}
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    sharp = torch.stack([east, north]), torch.stack([east, north])  # finds each of two, both ways
    blurred = torch.stack([east, north]), torch.stack([east, east])  # its two pictures look alike
    audio, video = strategy.choose((2 * sharp[0], 2 * sharp[1]), blurred)
    # by sound the stable one finds each with e^2 / (e^2 + 1), the other with 1/2: the stable one's pictures
    assert torch.equal(video, 2 * sharp[1])
    # by picture both find sound 0 with e^2 / (e^2 + 1): a tie
    assert torch.equal(audio, torch.stack([blurred[0][0], 2 * sharp[0][1]]))
    assert strategy._logged["stable_chosen"] == 3 / 4
    audio, video = strategy.choose(sharp, (3 * sharp[0], 3 * sharp[1]))
    assert torch.equal(audio, 3 * sharp[0])
    assert torch.equal(video, 3 * sharp[1])
    assert strategy._logged["stable_chosen"] == 0


def test_the_choice_against_the_formula():
    """q_i = softmax over the clips of cosine / temperature, at i; sound asks for video targets and back."""
    strategy = cls_er()
    strategy._logged = {}
    draw = torch.Generator().manual_seed(0)
    stable, plastic = (tuple(torch.randn(12, 6, generator=draw).double() for _ in range(2)) for _ in range(2))

    def q(query, key):
        return (normalize(query) @ normalize(key).T / 0.05).softmax(1).diagonal()

    by_audio = q(*stable) > q(*plastic)
    by_video = q(*stable[::-1]) > q(*plastic[::-1])
    audio, video = strategy.choose(stable, plastic)
    assert torch.equal(video, torch.where(by_audio[:, None], stable[1], plastic[1]))
    assert torch.equal(audio, torch.where(by_video[:, None], stable[0], plastic[0]))
    assert 0 < by_audio.sum() < 12
    assert not torch.equal(by_audio, by_video)


@pytest.mark.parametrize("shared", [True, False])
def test_the_penalty_by_hand(make_learner, shared):
    """lambda times both mean squared errors, on the replayed rows only, targets under the student's masks."""
    strategy = cls_er(reg_weight=0.7, share_masks=shared)
    learner = make_learner(strategy, torch.float64)
    for start in (0, 4, 8):
        step(learner, clips(range(start, start + 4)))
    targets = []
    strategy.choose = lambda stable, plastic: targets.append(stable) or stable
    before = flat(strategy.stable.backbone)
    strategy.stable.update_probability = strategy.plastic.update_probability = 0.0
    step(learner, clips(range(12, 16)))
    assert torch.equal(flat(strategy.stable.backbone), before)
    (audio, video), output = targets[0], learner.output
    expected = 0.7 * (mse_loss(output.audio[4:], audio) + mse_loss(output.video[4:], video))
    torch.testing.assert_close(learner.losses["distillation"], expected.detach())
    seen = learner.masks[4:].seen(learner.batch[4:])
    assert torch.equal(strategy.stable.embed(seen)[0], audio) == shared


def test_nothing_to_hold_in_the_first_step(make_learner):
    strategy = cls_er()
    learner = make_learner(strategy, torch.float64)
    step(learner, clips(range(4)))
    assert "reg_weight" not in learner.losses
    assert "stable_chosen" not in strategy.log()


def test_it_also_holds_what_another_strategy_replays(make_learner):
    """With a memory of nothing it adds only its teachers: here to DER++."""
    from avcl.plugins.derpp import DERpp

    derpp = DERpp(memory=Memory(capacity=8, dtype="float64"))
    learner = make_learner([derpp, cls_er(memory=Memory(capacity=0))], torch.float64)
    for start in (0, 4):
        step(learner, clips(range(start, start + 4)))
    assert list(learner.losses) == ["mae_audio", "mae_video", "contrastive", "drift", "distillation"]
    assert len(enter(learner, learner.batch).batch) == 8
