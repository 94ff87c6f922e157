"""ER: past clips follow the current ones, and are never offered again (E1: test_identities.py)."""

import torch
from helpers.toys import clips, copy_of, fed, four, small, step, weights

from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune


def test_E2_its_first_step_is_finetunes():
    for firsts, same in (((0,), True), ((0, 4), False)):
        assert torch.equal(*(weights(fed(strategy, *firsts)) for strategy in (small(ER), Finetune()))) == same


def test_E3_E4_E5_E6_the_batch():
    """Twice as long, current clips first and in order, past ones whole, distinct and drawn before the former enter."""
    strategy = small(ER, capacity=16)
    learner = fed(strategy, 0)
    for first in (4, 8, 12):
        coming = copy_of(learner.generators["memory"])
        step(learner, four(first))
        past = torch.randperm(first, generator=coming)[:4]
        assert learner.batch.index.tolist() == [*range(first, first + 4), *past.tolist()]
        for side in ("video", "audio"):
            assert torch.equal(getattr(learner.batch, side)[4:], getattr(clips(past.tolist()), side))
        assert strategy.memory.seen == first + 4


def test_E5_the_draw_is_uniform():
    """Each of 8 clips is among 4 drawn in half of the steps, within 4 sigma of 400."""
    strategy = small(ER)
    learner = fed(strategy, 0, 4)
    drawn = torch.stack([torch.bincount(strategy.draw(learner).slots, minlength=8) for _ in range(400)])
    assert (drawn.sum(1) == 4).all()
    assert ((drawn.sum(0) - 200).abs() < 4 * (400 * 0.25) ** 0.5).all()
