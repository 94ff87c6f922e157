"""MIR against scores worked out by other means, and where it must fall back to ER."""

import pytest
import torch
from helpers.toys import clips, copy_of, enter, fed, four, numbers, points, quadratic_learner, small, weights
from torch.func import functional_call

from avcl.plugins.mir import MIR


def filled(capacity=16, candidates=3, replay=None, **settings):
    """A learner that has trained on 12 clips, about to see 4 more, and a strategy whose memory holds every clip."""
    strategy = small(MIR, capacity=capacity, candidates=candidates, replay=replay)
    return enter(fed(strategy, 0, 4, 8, **settings), four(12)), strategy


def adam_by_hand(learner, clip, masks):
    """One Adam step on the mean loss of ``clip``, from its published formula."""
    loss = learner.backbone(clip, masks).loss.mean()
    names = {p: name for name, p in learner.backbone.named_parameters()}
    ahead = {}
    for group in learner.optimizer.param_groups:
        for w, g in zip(group["params"], torch.autograd.grad(loss, group["params"], retain_graph=True), strict=True):
            (b1, b2), state = group["betas"], learner.optimizer.state[w]
            g, t = g + group["weight_decay"] * w, int(state["step"]) + 1
            m, v = b1 * state["exp_avg"] + (1 - b1) * g, b2 * state["exp_avg_sq"] + (1 - b2) * g**2
            ahead[names[w]] = w - group["lr"] * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"])
    return ahead


def test_I1_the_largest_of_scores_computed_by_hand():
    learner, strategy = filled()
    memory, masks = (copy_of(learner.generators[key]) for key in ("memory", "auxiliary"))
    found = strategy.draw(learner)

    slots = torch.randperm(12, generator=memory)[:12]
    pool = strategy.memory.read(slots).clip
    ahead = adam_by_hand(learner, learner.batch, learner.backbone.draw_masks(learner.batch, masks))
    seen = learner.backbone.draw_masks(pool, masks)
    with torch.no_grad():
        harm = functional_call(learner.backbone, ahead, (pool, seen)).loss - learner.backbone(pool, seen).loss
    best = set(slots[harm.argsort(descending=True)[:4]].tolist())
    assert set(found.slots.tolist()) == best
    assert len(found) == 4
    assert harm.std() > 0


def test_I2_nothing_interferes_at_rate_zero_under_shared_masks():
    learner, strategy = filled(lr=0.0)
    pool = strategy.memory.read(torch.arange(12)).clip
    # in float64 but for the last bit: some machines' matrix products depend on where in memory their operands lie
    assert strategy.interference(learner, pool).abs().max() < 1e-14
    assert max(strategy.log()["interference"], strategy.log()["interference_spread"]) < 1e-14
    strategy.share_masks = False
    assert strategy.interference(learner, pool).abs().min() > 1e-6


def test_I3_one_candidate_for_each_place_is_no_choice():
    """The order of the draw is kept: then it is ER, see test_identities.py."""
    learner, strategy = filled(candidates=1)
    drawn = torch.randperm(12, generator=copy_of(learner.generators["memory"]))[:4]
    assert strategy.draw(learner).slots.tolist() == drawn.tolist()


def test_I4_looking_changes_nothing():
    learner, strategy = filled(accumulate=2)
    learner.backbone(clips(range(4)), learner.masks[:4]).loss.mean().backward()

    def everything():
        moments = [v.clone() for state in learner.optimizer.state.values() for v in state.values()]
        masks = learner.generators["mask"].get_state()
        return [weights(learner), *(p.grad.clone() for p in learner.parameters()), *moments, masks]

    before = everything()
    strategy.draw(learner)
    assert all(torch.equal(one, two) for one, two in zip(before, everything(), strict=True))


def test_I6_on_a_parabola_the_farthest_on_the_other_side_win():
    """After a step from w to w' the loss 1/2 |x - w|^2 grows by (w - w') . (x - (w + w') / 2)."""
    strategy = small(MIR, capacity=40, candidates=20)
    learner = quadratic_learner(strategy, rate=0.2)
    draw = torch.Generator().manual_seed(0)
    past, current = torch.randn(40, 3, generator=draw).double(), torch.randn(2, 3, generator=draw).double()
    strategy.memory.add(points(past))
    found = strategy.draw(enter(learner, points(current)))
    w = learner.backbone.w.detach()
    ahead = w - 0.2 * (w - current.mean(0))
    scores = (past - (w + ahead) / 2) @ (w - ahead)
    assert set(found.slots.tolist()) == set(scores.topk(2).indices.tolist())
    torch.testing.assert_close(strategy.interference(learner, points(past)), scores)
    assert strategy.log()["interference"] == pytest.approx(float(scores.mean()))
    assert strategy.log()["interference_spread"] == pytest.approx(float(scores.std(correction=0)))
    torch.testing.assert_close(numbers(found.clip), past[found.slots])


@pytest.mark.parametrize(("capacity", "replay", "slots"), [(3, None, [0, 1, 2]), (12, 2, None)])
def test_I7_fewer_past_than_wanted_are_all_replayed_and_replay_says_how_many(capacity, replay, slots):
    learner, strategy = filled(capacity=capacity, replay=replay)
    found = sorted(strategy.draw(learner).slots.tolist())
    assert found == slots if slots else len(found) == replay
