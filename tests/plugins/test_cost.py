"""Forward and backward passes of one step, counted by hooks: what each method costs."""

import pytest
from helpers.toys import Passes, clips, step

from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.finetune import Finetune
from avcl.plugins.gmed import GMED
from avcl.plugins.lump import LUMP
from avcl.plugins.mir import MIR
from avcl.plugins.multitask import Multitask

# method: passes of the model, of its teachers (each: whole forward, embeddings alone, backward), clips of all
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
}


@pytest.mark.parametrize("make", COSTS, ids=lambda make: make.name)
def test_passes_of_one_step(make_learner, make):
    more = {"candidates": 3} if make is MIR else {}
    memory = {} if make in (Finetune, Multitask) else {"memory": Memory(capacity=12)}
    strategy = make(**memory, **more)
    learner = make_learner(strategy)
    own = Passes(learner.backbone)
    names = [name for name in ("teacher", "stable", "plastic") if hasattr(strategy, name)]
    teachers = [Passes(getattr(strategy, name).backbone) for name in names]
    for start in (0, 4, 8):
        step(learner, clips(range(start, start + 4)).to(learner.dtype))
    for passes in (own, *teachers):
        passes.clear()
    step(learner, clips(range(12, 16)).to(learner.dtype))
    said = [passes.seen for passes in teachers] or [(0, 0, 0)]
    model, all_teachers, counted = COSTS[make]
    assert own.seen == model
    assert tuple(map(sum, zip(*said, strict=True))) == all_teachers
    assert own.clips + [count for passes in teachers for count in passes.clips] == counted
