"""Finetune: the plain loop, and nothing else."""

import pytest
import torch
from helpers.toys import read, small_learner, train, weights

from avcl.memory import Memory
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import small_backbone
from avcl.training.loading import Batches
from avcl.utils.seeding import generator


def test_F1_a_loop_written_by_hand():
    """The same weights, bit for bit, as Adam on the mean of each loss, with decay for matrices alone."""
    backbone, mask = small_backbone(torch.float64), generator(0, "mask")
    tables, groups = set(backbone.no_decay()), ([], [])
    for name, p in backbone.named_parameters():
        groups[p.ndim > 1 and name not in tables].append(p)
    groups = [{"params": params, "weight_decay": decay} for params, decay in zip(groups, (0.0, 0.1), strict=True)]
    adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.95, 0.999))
    for task in (0, 1):
        for batch in Batches(clips=16, batch_size=4, epochs=2, seed=0, task=task):
            clip = read(batch, task)
            adam.zero_grad()
            output = backbone(clip, backbone.draw_masks(clip, mask))
            torch.stack([term.mean() for term in output.terms.values()]).sum().backward()
            adam.step()
    learner = small_learner(Finetune(), torch.float64, weight_decay=0.1)
    assert torch.equal(train(learner), weights(backbone))
    assert learner.steps == 16


def test_F2_F3_no_memory_no_draws_and_one_adam_over_all_tasks():
    strategy = Finetune()
    learner = small_learner(strategy)
    before = [learner.generators[name].get_state() for name in ("memory", "method", "auxiliary")]
    train(learner)
    assert strategy.state_dict() == strategy.log() == {}
    assert strategy.full_bytes() == 0
    after = [learner.generators[name].get_state() for name in ("memory", "method", "auxiliary")]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert {int(state["step"]) for state in learner.optimizer.state.values()} == {8 + 8}
    with pytest.raises(TypeError, match="memory"):
        Finetune(memory=Memory())
