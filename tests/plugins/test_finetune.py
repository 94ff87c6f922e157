"""Finetune: the plain loop, and nothing else."""

import pytest
import torch
from helpers.toys import clips, step, train, weights

from avcl.memory import Memory
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import small_backbone
from avcl.utils.seeding import generator


def test_F1_a_loop_written_by_hand(make_learner):
    """The same weights, bit for bit, as Adam on the mean of each loss, with decay for matrices alone."""
    learner = make_learner(Finetune(), torch.float64, weight_decay=0.1)
    backbone, mask = small_backbone(torch.float64), generator(0, "mask")
    tables = set(backbone.no_decay())
    named = list(backbone.named_parameters())
    groups = [
        {"params": [p for n, p in named if p.ndim > 1 and n not in tables], "weight_decay": 0.1},
        {"params": [p for n, p in named if p.ndim <= 1 or n in tables], "weight_decay": 0.0},
    ]
    adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.95, 0.999))
    for task in (0, 1):
        for start in (0, 4, 8):
            clip = clips(range(start, start + 4), task)
            step(learner, clip)
            adam.zero_grad()
            output = backbone(clip, backbone.draw_masks(clip, mask))
            sum(term.mean() for term in output.terms.values()).backward()
            adam.step()
    assert torch.equal(weights(learner), torch.cat([p.detach().flatten() for p in backbone.parameters()]))


def test_F2_there_is_no_memory(make_learner):
    strategy = Finetune()
    learner = make_learner(strategy)
    before = [learner.generators[name].get_state() for name in ("memory", "method", "auxiliary")]
    train(learner)
    assert strategy.state_dict() == strategy.log() == {}
    after = [learner.generators[name].get_state() for name in ("memory", "method", "auxiliary")]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert strategy.full_bytes() == 0
    with pytest.raises(TypeError, match="memory"):
        Finetune(memory=Memory())


def test_F3_one_adam_over_all_tasks(make_learner):
    learner = make_learner(Finetune())
    train(learner)
    assert {int(state["step"]) for state in learner.optimizer.state.values()} == {8 + 8}
