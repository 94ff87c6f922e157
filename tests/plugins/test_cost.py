"""Forward and backward passes of one step, counted by hooks: what each method costs; and casts they leave behind."""

import pytest
import torch
from helpers.toys import Passes, fed, four, small, step

from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.finetune import Finetune
from avcl.plugins.gmed import GMED
from avcl.plugins.lump import LUMP
from avcl.plugins.mats import MATS
from avcl.plugins.mir import MIR
from avcl.plugins.multitask import Multitask
from avcl.plugins.random_patches import RandomPatches
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus

# method: passes of the model, of its teachers (each: whole forward, embeddings alone, backward), clips of all;
# STELLA scores B whole clips, then trains on halves of 2 B; MATS embeds patches once more, which is no pass
COSTS = {
    Finetune: ((1, 0, 1), (0, 0, 0), [4]),
    Multitask: ((1, 0, 1), (0, 0, 0), [4]),
    LUMP: ((1, 0, 1), (0, 0, 0), [4]),
    ER: ((1, 0, 1), (0, 0, 0), [8]),
    DERpp: ((1, 0, 1), (0, 0, 0), [8]),
    CLSER: ((1, 0, 1), (0, 2, 0), [8, 4, 4]),
    ESMER: ((1, 0, 1), (1, 1, 0), [8, 4, 4]),
    MIR: ((4, 0, 2), (0, 0, 0), [4, 12, 12, 8]),
    GMED: ((4, 0, 4), (0, 0, 0), [4, 4, 4, 8]),
    RandomPatches: ((1, 0, 1), (0, 0, 0), [8]),
    MATS: ((1, 1, 1), (0, 0, 0), [8, 8]),
    Stella: ((1, 1, 1), (0, 0, 0), [4, 8]),
    StellaPlus: ((1, 1, 1), (0, 0, 0), [4, 8]),
}


@pytest.mark.parametrize("make", COSTS, ids=lambda make: make.name)
def test_passes_of_one_step(make):
    strategy = small(make, capacity=12, **{"candidates": 3} if make is MIR else {})
    learner = fed(strategy, 0, 4, 8, dtype=torch.float32)
    names = [name for name in ("teacher", "stable", "plastic") if hasattr(strategy, name)]
    own, *teachers = (Passes(b) for b in (learner.backbone, *(getattr(strategy, name).backbone for name in names)))
    step(learner, four(12))
    model, all_teachers, counted = COSTS[make]
    assert own.seen == model
    said = [passes.seen for passes in teachers] or [(0, 0, 0)]
    assert tuple(map(sum, zip(*said, strict=True))) == all_teachers
    assert own.clips + [count for passes in teachers for count in passes.clips] == counted


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("make", [MIR, GMED, Stella], ids=lambda make: make.name)
def test_every_weight_still_gets_its_gradient_in_half_precision(make, precision):
    """Passes without gradient under autocast must not leave cast weights behind that have none."""
    learner = fed(small(make), 0, 4, dtype=torch.float32, precision=precision)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())
    assert any(p.grad.abs().sum() > 0 for p in learner.parameters())
    for scores in vars(learner.strategies[0]).get("_scores", {}).values():
        assert scores.dtype is torch.float32
