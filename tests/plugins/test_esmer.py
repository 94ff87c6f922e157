"""ESMER: what counts less, what is kept out, and how the usual loss moves."""

import pytest
import torch
from helpers.toys import clips, step, train

from avcl.memory import Memory
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.testing.toys import Noise


def esmer(**settings):
    return ESMER(**{"memory": Memory(capacity=8, dtype="float64")} | settings)


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def run(make_learner, strategy, steps, each=lambda learner: None, **settings):
    learner = make_learner(strategy, torch.float64, **settings)
    for number in range(steps):
        step(learner, clips(range(number % 12, number % 12 + 4)))
        each(learner)
    return learner


@pytest.mark.parametrize("loss_margin", [0.5, 1.0, 2.5])
def test_S3_weights_by_hand(loss_margin):
    """1 below the limit, usual / loss above; at most 1 / loss_margin, and at most 1 from a loss_margin of 1 on."""
    strategy = esmer(loss_margin=loss_margin)
    strategy.loss_mean = 2.0
    loss = torch.tensor([0.1, 0.9, 1.5, 2.0, 3.0, 4.9, 5.1, 100.0], dtype=torch.float64)
    weight, accepted = strategy.judge(loss)
    for x, w, kept in zip(loss.tolist(), weight.tolist(), accepted.tolist(), strict=True):
        assert w == (1.0 if x < loss_margin * 2 else 2 / x)
        assert kept == (x <= loss_margin * 2)
        assert 0 < w <= max(1, 1 / loss_margin)
    flagged = loss[~accepted]
    torch.testing.assert_close(weight[~accepted] * flagged, torch.full_like(flagged, 2.0))


def test_S3_weights_act_on_every_term_of_the_current_clips_only(make_learner):
    strategy = esmer(loss_margin=0.9)
    learner = run(make_learner, strategy, 6)
    assert len(learner.batch) == 8
    assert len(learner.weight) == 4
    assert not (learner.weight == 1).all()
    for key, term in learner.output.terms.items():
        expected = (torch.cat([learner.weight * term[:4], term[4:]])).mean()
        torch.testing.assert_close(learner.losses[key], expected.detach())


def test_S4_the_first_step_knows_nothing(make_learner):
    strategy = esmer()
    learner = run(make_learner, strategy, 1)
    assert (learner.weight == 1).all()
    assert strategy.memory.seen == 4
    assert strategy.log()["accepted"] == 1
    assert strategy.loss_mean > 0


def test_S5_the_usual_loss_while_it_warms_up(make_learner):
    """mu_k = sum of the inliers' means over k + 1: low by k / (k + 1), as the first value counts as 0."""
    strategy, means = esmer(loss_margin=1e9), []

    def keep(learner):
        loss = strategy._loss
        means.append(float(loss[loss <= loss.mean() + loss.std()].mean()))
        assert strategy.loss_mean == pytest.approx(sum(means) / (len(means) + 1))

    run(make_learner, strategy, 8, keep)
    assert strategy.log()["loss_mean"] == strategy.loss_mean


def test_afterwards_it_is_a_mean_that_forgets():
    strategy = esmer(loss_ema_decay=0.5)
    strategy.loss_mean, strategy.batches = 3.0, 50
    strategy.follow(torch.tensor([1.0, 2.0]))
    assert strategy.loss_mean == pytest.approx(0.5 * 3 + 0.5 * 1.5)


def test_outliers_do_not_move_it():
    strategy = esmer(std_margin=1.0, loss_ema_decay=0.0)
    strategy.loss_mean, strategy.batches = 0.0, 50
    strategy.follow(torch.tensor([1.0, 2.0, 3.0, 100.0]))
    assert strategy.loss_mean == pytest.approx(2.0)
    strategy.follow(torch.tensor([7.0]))  # one clip has no deviation
    assert strategy.loss_mean == pytest.approx(7.0)
    strategy = esmer(std_margin=1.5, loss_ema_decay=0.0)
    strategy.loss_mean, strategy.batches = 0.0, 50
    strategy.follow(torch.tensor([0.0, 0.0, 0.0, 10.0]))  # 2.5 + 1.5 x 5 = 10, against 2.5 + 1.5 x 4.33 = 9
    assert strategy.loss_mean == pytest.approx(2.5)


def test_S6_what_is_rejected_is_never_stored_and_does_not_count(make_learner):
    strategy, offered = esmer(loss_margin=0.9, memory=Memory(capacity=200)), []

    def keep(learner):
        offered.extend(learner.current.index[strategy._accepted].tolist())

    learner = run(make_learner, strategy, 20, keep)
    assert strategy.memory.seen == len(offered)
    assert strategy.memory.read(torch.arange(len(offered))).clip.index.tolist() == offered
    assert 4 < len(offered) < 80
    assert learner.steps == 20


def test_S6_a_batch_of_which_nothing_is_accepted(make_learner):
    """The usual loss starts at half of what it is: with a loss_margin of 1 the second batch is rejected whole."""
    strategy = esmer()
    run(make_learner, strategy, 2)
    assert strategy.log()["accepted"] == 0
    assert strategy.memory.seen == 4
    nothing = esmer(loss_margin=1e-9)
    learner = make_learner(nothing, torch.float64)
    assert torch.isfinite(train(learner, Noise(tasks=1))).all()
    assert nothing.memory.seen == 4


def test_S7_the_teacher_is_a_mean_of_past_weights(make_learner):
    strategy = esmer(update_probability=1.0)
    trail = []
    learner = make_learner(strategy, torch.float64)
    trail.append(flat(learner.backbone))
    for start in (0, 4, 8):
        step(learner, clips(range(start, start + 4)))
        trail.append(flat(learner.backbone))
    torch.testing.assert_close(flat(strategy.teacher.backbone), torch.stack(trail).mean(0), rtol=0, atol=1e-12)
    distance = float((trail[-1] - torch.stack(trail).mean(0)).norm())
    assert strategy.log()["teacher_distance"] == pytest.approx(distance)


def test_the_teacher_judges_current_clips_among_themselves(make_learner):
    """Its loss is that of the current clips alone, under the student's masks; at the beginning both agree."""
    strategy = esmer()
    learner = make_learner(strategy, torch.float64, lr=0.0)
    step(learner, clips(range(4)))
    torch.testing.assert_close(strategy._loss, learner.output.loss.detach())
    step(learner, clips(range(4, 8)))
    current = learner.backbone(learner.batch[:4], learner.masks[:4]).loss.detach()
    torch.testing.assert_close(strategy._loss, current)
    assert not torch.allclose(strategy._loss, learner.output.loss[:4].detach())
    assert float(learner.losses["distillation"]) == 0  # the teacher is still the student
    strategy.share_masks = False
    step(learner, clips(range(8, 12)))
    current = learner.backbone(learner.batch[:4], learner.masks[:4]).loss.detach()
    assert not torch.allclose(strategy._loss, current)
    assert float(learner.losses["distillation"]) > 0


def test_it_weighs_what_another_strategy_prepared(make_learner):
    """With a memory of nothing it is a weighting over ER's batch, or over STELLA's selection."""
    from avcl.plugins.stella import Stella

    for other in (ER(memory=Memory(capacity=8)), Stella(heads=4, chunk=2, memory=Memory(capacity=8))):
        strategy = esmer(memory=Memory(capacity=0), loss_margin=0.5)
        learner = run(make_learner, [other, strategy], 3)
        assert (learner.weight < 2).all()
        assert not (learner.weight == 1).all()
        assert "distillation" in learner.losses
        assert len(learner.batch) == 8
        assert len(strategy.memory) == 0
        assert len(other.memory) == 8
