"""Methods that must be one another where their settings say so, bit for bit in float64 over 32 steps of Adam."""

import pytest
import torch
from helpers.toys import train

from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.finetune import Finetune
from avcl.plugins.gmed import GMED
from avcl.plugins.lump import LUMP
from avcl.plugins.mir import MIR

NEVER = 1e300
"""A margin that no loss exceeds."""


def trained(make_learner, make, capacity=8, **settings):
    """All weights after the stream, under ``make(memory=..., **settings)``."""
    memory = {} if make is Finetune else {"memory": Memory(capacity=capacity, dtype="float64")}
    strategy = make(**memory, **settings)
    learner = make_learner(strategy, torch.float64, epochs=4)
    found = train(learner)
    assert learner.steps == 32
    return found


@pytest.fixture(scope="module")
def known():
    """What was trained already."""
    return {}


def once(known, make_learner, make, **settings):
    key = make.name, tuple(settings.items())
    if key not in known:
        known[key] = trained(make_learner, make, **settings)
    return known[key]


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (DERpp, {"alpha": 0.0}),
        (GMED, {"alpha": 0.0}),
        (CLSER, {"reg_weight": 0.0}),
        (ESMER, {"reg_weight": 0.0, "loss_margin": NEVER}),
        (MIR, {"candidates": 1}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_with_its_own_part_switched_off_it_is_er(known, make_learner, make, settings):
    assert torch.equal(once(known, make_learner, make, **settings), once(known, make_learner, ER))


@pytest.mark.parametrize("make", [ER, DERpp, MIR, GMED, CLSER, ESMER, LUMP], ids=lambda make: make.name)
def test_F4_with_an_empty_memory_it_is_finetune(known, make_learner, make):
    settings = {"loss_margin": NEVER} if make is ESMER else {}
    assert torch.equal(once(known, make_learner, make, capacity=0, **settings), once(known, make_learner, Finetune))


class OnlyNow(LUMP):
    """LUMP with lambda = 1."""

    def share(self, learner):
        return 1.0


def test_F4_L1_mixing_in_nothing_is_finetune(known, make_learner):
    assert torch.equal(trained(make_learner, OnlyNow), once(known, make_learner, Finetune))


def test_C2_S2_two_teachers_that_are_one_are_esmers(known, make_learner):
    shared = {"reg_weight": 0.3}
    two = once(known, make_learner, CLSER, stable_update_probability=1.0, plastic_update_probability=1.0, **shared)
    one = once(known, make_learner, ESMER, update_probability=1.0, loss_margin=NEVER, **shared)
    assert torch.equal(one, two)


@pytest.mark.parametrize("make", [DERpp, GMED, CLSER, ESMER, MIR, LUMP], ids=lambda make: make.name)
def test_as_they_come_they_are_not(known, make_learner, make):
    """The identities above would also hold between methods that do nothing."""
    settings = {"alpha": 1e3} if make is GMED else {}
    found = once(known, make_learner, make, **settings)
    assert not torch.equal(found, once(known, make_learner, ER))
    assert not torch.equal(found, once(known, make_learner, Finetune))
