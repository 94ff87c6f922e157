"""ER: past clips follow the current ones, and are never offered again."""

import torch
from helpers.toys import clips, copy_of, step, train

from avcl.memory import Memory
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune


def er(capacity=8):
    return ER(memory=Memory(capacity=capacity, dtype="float64"))


def test_E1_without_a_memory_it_is_finetune_bit_for_bit(make_learner):
    assert torch.equal(*(train(make_learner(strategy, torch.float64)) for strategy in (er(0), Finetune())))


def test_E2_so_is_its_first_step(make_learner):
    learners = [make_learner(strategy, torch.float64) for strategy in (er(), Finetune())]
    for start, same in ((0, True), (4, False)):
        for learner in learners:
            step(learner, clips(range(start, start + 4)))
        one, two = (torch.cat([p.detach().flatten() for p in learner.parameters()]) for learner in learners)
        assert torch.equal(one, two) == same


def test_E3_E4_E5_the_batch(make_learner):
    """Exactly twice as long, current clips first and in order, past ones distinct; only the former are offered."""
    strategy = er(16)
    learner = make_learner(strategy, torch.float64)
    for number, start in enumerate((0, 4, 8, 12)):
        step(learner, clips(range(start, start + 4)))
        assert strategy.memory.seen == 4 * (number + 1)
        if number:
            assert len(learner.batch) == 8
            slots = strategy._past.slots.tolist()
            assert len(set(slots)) == 4
            assert max(slots) < start
        assert learner.batch.index[:4].tolist() == list(range(start, start + 4))


def test_E5_the_draw_is_uniform(make_learner):
    """Each of 8 clips is among 4 drawn in half of the steps, within 4 sigma of 400."""
    strategy = er()
    learner = make_learner(strategy, torch.float64)
    for start in (0, 4):
        step(learner, clips(range(start, start + 4)))
    drawn = torch.stack([torch.bincount(strategy.draw(learner).slots, minlength=8) for _ in range(400)])
    assert (drawn.sum(1) == 4).all()
    assert ((drawn.sum(0) - 200).abs() < 4 * (400 * 0.25) ** 0.5).all()


def test_E6_sound_picture_and_number_of_a_past_clip_belong_together(make_learner):
    strategy = er()
    learner = make_learner(strategy, torch.float64)
    seen = clips(range(12))
    for start in (0, 4, 8):
        step(learner, seen[start : start + 4])
    past = strategy.draw(learner).clip
    own = seen[past.index]
    assert torch.equal(past.video, own.video)
    assert torch.equal(past.audio, own.audio)


def test_the_draw_comes_before_the_current_clips_enter(make_learner):
    strategy = er(4)
    learner = make_learner(strategy, torch.float64)
    step(learner, clips(range(4)))
    coming = copy_of(learner.generators["memory"])
    step(learner, clips(range(4, 8)))
    assert learner.batch.index[4:].tolist() == torch.randperm(4, generator=coming).tolist()
