"""ESMER: what counts less, what is kept out, and how the usual loss moves."""

import pytest
import torch
from helpers.toys import fed, four, held, small, step, weights

from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.stella import Stella


@pytest.mark.parametrize("loss_margin", [0.5, 1.0, 2.5])
def test_S3_weights_by_hand(loss_margin):
    """1 below the limit, usual / loss above; at most 1 / loss_margin, and at most 1 from a loss_margin of 1 on."""
    strategy = small(ESMER, loss_margin=loss_margin)
    strategy.loss_mean = 2.0
    loss = torch.tensor([0.1, 0.9, 1.5, 2.0, 3.0, 4.9, 5.1, 100.0], dtype=torch.float64)
    weight, accepted = strategy.judge(loss)
    for x, w, kept in zip(loss.tolist(), weight.tolist(), accepted.tolist(), strict=True):
        assert w == (1.0 if x < loss_margin * 2 else 2 / x)
        assert kept == (x <= loss_margin * 2)
        assert 0 < w <= max(1, 1 / loss_margin)


def test_S3_weights_act_on_every_term_of_the_current_clips_only():
    learner = fed(small(ESMER, loss_margin=0.9), *range(6))
    assert (len(learner.batch), len(learner.weight)) == (8, 4)
    assert not (learner.weight == 1).all()
    for key, term in learner.output.terms.items():
        expected = (torch.cat([learner.weight * term[:4], term[4:]])).mean()
        torch.testing.assert_close(learner.losses[key], expected.detach())


def test_S4_the_first_step_knows_nothing_and_S6_the_second_is_rejected_whole():
    """The usual loss starts at half of what it is: with a loss margin of 1 the second batch is above it."""
    strategy = small(ESMER)
    learner = fed(strategy, 0)
    assert (learner.weight == 1).all()
    assert strategy.memory.seen == 4
    assert strategy.log()["accepted"] == 1
    assert strategy.loss_mean > 0
    step(learner, four(1))
    assert strategy.log()["accepted"] == 0
    assert strategy.memory.seen == 4


def test_S5_the_usual_loss_while_it_warms_up():
    """mu_k = sum of the inliers' means over k + 1: low by k / (k + 1), as the first value counts as 0."""
    strategy, means = small(ESMER, loss_margin=1e9), []

    def keep(learner):
        loss = strategy._loss
        means.append(float(loss[loss <= loss.mean() + loss.std()].mean()))
        assert strategy.loss_mean == pytest.approx(sum(means) / (len(means) + 1))

    fed(strategy, *range(6), each=keep)
    assert strategy.log()["loss_mean"] == strategy.loss_mean


@pytest.mark.parametrize(
    ("settings", "before", "losses", "after"),
    [
        ({"loss_ema_decay": 0.5}, 3.0, [1, 2], 0.5 * 3 + 0.5 * 1.5),
        ({"loss_ema_decay": 0.0, "std_margin": 1.0}, 0.0, [1, 2, 3, 100], 2.0),
        ({"loss_ema_decay": 0.0, "std_margin": 1.0}, 2.0, [7], 7.0),  # one clip has no deviation
        # the unbiased deviation: 2.5 + 1.5 x 5 = 10, against 2.5 + 1.5 x 4.33 = 9
        ({"loss_ema_decay": 0.0, "std_margin": 1.5}, 0.0, [0, 0, 0, 10], 2.5),
    ],
    ids=["forgets", "outlier", "one clip", "unbiased"],
)
def test_S5_afterwards_it_is_a_mean_that_forgets_and_outliers_do_not_move_it(settings, before, losses, after):
    strategy = small(ESMER, **settings)
    strategy.loss_mean, strategy.batches = before, 50
    strategy.follow(torch.tensor(losses, dtype=torch.float64))
    assert strategy.loss_mean == pytest.approx(after)


def test_S6_what_is_rejected_is_never_stored_and_does_not_count():
    strategy, offered = small(ESMER, loss_margin=0.9, capacity=200), []
    fed(strategy, *range(12), each=lambda learner: offered.extend(learner.current.index[strategy._accepted].tolist()))
    assert strategy.memory.seen == len(offered)
    assert held(strategy).clip.index.tolist() == offered
    assert 4 < len(offered) < 48


def test_S7_the_teacher_is_a_mean_of_past_weights():
    strategy, trail = small(ESMER, update_probability=1.0), [weights(fed(small(ESMER)).backbone)]
    fed(strategy, 0, 4, 8, each=lambda learner: trail.append(weights(learner.backbone)))
    mean = torch.stack(trail).mean(0)
    torch.testing.assert_close(weights(strategy.teacher.backbone), mean, rtol=0, atol=1e-12)
    assert strategy.log()["teacher_distance"] == pytest.approx(float((trail[-1] - mean).norm()))


def test_the_teacher_judges_current_clips_among_themselves():
    """Its loss is that of the current clips alone, under the student's masks; at the beginning both agree."""
    strategy = small(ESMER)
    learner = fed(strategy, 0, lr=0.0)
    torch.testing.assert_close(strategy._loss, learner.output.loss.detach())
    for shared in (True, False):
        strategy.share_masks = shared
        step(learner, four(4))
        current = learner.backbone(learner.batch[:4], learner.masks[:4]).loss.detach()
        assert torch.allclose(strategy._loss, current) == shared
        assert not torch.allclose(strategy._loss, learner.output.loss[:4].detach())
        assert (learner.losses["distillation"].item() == 0) == shared  # the teacher is still the student


@pytest.mark.parametrize("other", [ER, Stella])
def test_it_weighs_what_another_strategy_prepared(other):
    """With a memory of nothing it is a weighting over ER's batch, or over STELLA's selection."""
    learner = fed([small(other), small(ESMER, capacity=0, loss_margin=0.5)], 0, 1, 2)
    assert (learner.weight < 2).all() and not (learner.weight == 1).all()
    assert "distillation" in learner.losses
    assert [len(learner.batch), *(len(part.memory) for part in learner.strategies)] == [8, 8, 0]
