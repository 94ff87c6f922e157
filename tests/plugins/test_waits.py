"""How often a training step would wait for a GPU, and what it copies there: counted on a CPU, see helpers.waits."""

from collections import Counter

import pytest
import torch
from helpers.toys import small, small_learner
from helpers.waits import DEVICE, Waits, counted_waits, mark

from avcl.bench.stages import Stages
from avcl.registry import registry
from avcl.testing import Noise

# What is left, by file; nothing may be added. The loop looks at every loss on a CPU, at every 16th on a GPU; the replay
# buffer copies what it stores, which waits as often as there are tensors; STELLA's ops check values.
LOOP, MEMORY = "avcl/training/learner.py __bool__", "avcl/memory.py cpu"
OPS = "plugins/stella/ops/checks.py __bool__"
WAITS = {
    "cls-er": {LOOP: 1, MEMORY: 5},
    "derpp": {LOOP: 1, MEMORY: 7},
    "er": {LOOP: 1, MEMORY: 5},
    "esmer": {LOOP: 1, MEMORY: 5, "avcl/clip.py __getitem__": 5, "plugins/esmer.py __getitem__": 1}
    | {"plugins/esmer.py __float__": 1},
    "finetune": {LOOP: 1},
    "gmed": {LOOP: 1, MEMORY: 8},
    "lump": {LOOP: 1, MEMORY: 5},
    "mats": {LOOP: 1, MEMORY: 7},
    "mir": {LOOP: 1, MEMORY: 5, "plugins/mir.py cpu": 1},
    "multitask": {LOOP: 1},
    "random": {LOOP: 1, MEMORY: 7},
    "stella": {LOOP: 1, MEMORY: 13, OPS: 22},
    "stella-plus": {LOOP: 1, MEMORY: 9, OPS: 22},
}

COPIES = {"finetune": 5, "multitask": 5, "er": 10, "cls-er": 10, "esmer": 10, "derpp": 12, "mats": 13, "random": 14}
COPIES |= {"gmed": 15, "lump": 15, "mir": 19, "stella-plus": 19, "stella": 23}
"""To the device: frames, mel and index, masks, and of what is replayed all tensors one by one."""


def counted(name):
    with Waits():  # what is made for the device carries its mark from the beginning
        stages = Stages(small_learner(small(registry().find("strategies", name)), epochs=100, device=DEVICE))
        stages.start(Noise().benchmark().train_stream[0])
    with counted_waits(stages.learner):
        stages.advance(3)
    with counted_waits(stages.learner) as found:
        stages.advance()
    return found


@pytest.mark.parametrize("name", WAITS)
def test_a_step_waits_no_more_often_than_it_did(name):
    found = counted(name)
    files = Counter()
    for place, count in found.waits.items():
        where, _, what = place.partition(" ")
        files[f"{where.partition(':')[0]} {what}"] += count
    assert {key: count for key, count in files.items() if count > WAITS[name].get(key, 0)} == {}
    assert sum(found.copies.values()) <= COPIES[name]


def test_every_bundled_strategy_is_counted():
    bundled = {cls.name for plugin, cls in registry().offers("strategies") if plugin.module.startswith("avcl.plugins")}
    assert bundled == WAITS.keys() == COPIES.keys()


@pytest.mark.parametrize(
    ("look", "waits"),
    [
        (lambda x: x.sum().item(), True),
        (lambda x: bool((x > 0).any()), True),
        (lambda x: float(x[0]), True),
        (lambda x: x.tolist(), True),
        (lambda x: x.cpu(), True),
        (lambda x: x.to("cpu"), True),
        (lambda x: x.nonzero(), True),
        (lambda x: x[x > 0], True),
        (lambda x: torch.where(x > 0), True),
        (lambda x: x.numpy(), True),
        (lambda x: torch.where(x > 0, x, 0), False),
        (lambda x: x[torch.tensor([0, 1])], False),
        (lambda x: x[:2].sum() + x.new_zeros(()), False),
        (lambda x: x.to(torch.float64), False),
        (lambda x: x.topk(2).indices, False),
    ],
)
def test_what_waits(look, waits):
    for there in (True, False):
        x = mark(torch.tensor([1.0, -2.0, 3.0]), there)
        with Waits() as found:
            look(x)
        assert bool(found.waits) == (waits and there)


def test_what_is_computed_of_the_devices_tensors_is_there_and_a_copy_is_not():
    x = mark(torch.ones(3))
    with Waits() as found:
        y = torch.ones(3) + 2 * x
        bool(y.cpu()[0] > 0)
        torch.ones(3).sum().item()
        torch.ones(3).to(DEVICE).exp().sum().item()
        torch.ones((), device=y.device).item()
        torch.ones(3).to(torch.ones(3).device).sum().item()
    kinds = Counter()
    for key, count in found.waits.items():
        kinds[key.split()[-1]] += count
    assert kinds == {"cpu": 1, "item": 2}
    assert sum(found.copies.values()) == 1
