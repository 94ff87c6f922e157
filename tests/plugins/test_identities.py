"""Methods that must be one another where their settings say so, bit for bit in float64 over 32 steps of Adam."""

import pytest
import torch
from helpers.toys import small, small_learner, train

from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.finetune import Finetune
from avcl.plugins.gmed import GMED
from avcl.plugins.lump import LUMP
from avcl.plugins.mats import MATS
from avcl.plugins.mir import MIR
from avcl.plugins.random_patches import RandomPatches

NEVER = 1e300
"""A margin that no loss exceeds."""


@pytest.fixture(scope="module")
def trained():
    """All weights after the stream under ``make(**settings)``; each is trained once."""
    known = {}

    def trained(make, **settings):
        key = make.__name__, tuple(settings.items())
        if key not in known:
            learner = small_learner(small(make, **settings), torch.float64, epochs=4)
            known[key] = train(learner)
            assert learner.steps == 32
        return known[key]

    return trained


class OnlyNow(LUMP):
    """LUMP with lambda = 1."""

    def share(self, learner):
        return 1.0


@pytest.mark.parametrize(
    ("make", "settings", "other"),
    [
        pytest.param(DERpp, {"alpha": 0.0}, ER, id="D1"),
        pytest.param(GMED, {"alpha": 0.0}, ER, id="G1"),
        pytest.param(CLSER, {"reg_weight": 0.0}, ER, id="C1"),
        pytest.param(ESMER, {"reg_weight": 0.0, "loss_margin": NEVER}, ER, id="S1"),
        pytest.param(MIR, {"candidates": 1}, ER, id="I3"),
        pytest.param(RandomPatches, {"keep_video": 1.0, "keep_audio": 1.0}, DERpp, id="R4"),
        pytest.param(MATS, {"keep_video": 1.0, "keep_audio": 1.0, "audio": "random"}, DERpp, id="R4 mats"),
        pytest.param(MATS, {"keep_video": 1.0, "keep_audio": 0.5, "audio": "full"}, DERpp, id="R4 full"),
        pytest.param(OnlyNow, {}, Finetune, id="F4 L1"),
    ],
)
def test_with_its_own_part_switched_off_it_is_another(trained, make, settings, other):
    assert torch.equal(trained(make, **settings), trained(other))


@pytest.mark.parametrize("make", [ER, DERpp, MIR, GMED, CLSER, ESMER, LUMP], ids=lambda make: make.name)
def test_F4_E1_with_an_empty_memory_it_is_finetune(trained, make):
    settings = {"loss_margin": NEVER} if make is ESMER else {}
    assert torch.equal(trained(make, capacity=0, **settings), trained(Finetune))


def test_C2_S2_two_teachers_that_are_one_are_esmers(trained):
    two = trained(CLSER, stable_update_probability=1.0, plastic_update_probability=1.0, reg_weight=0.3)
    one = trained(ESMER, update_probability=1.0, loss_margin=NEVER, reg_weight=0.3)
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "make", [DERpp, GMED, CLSER, ESMER, MIR, LUMP, RandomPatches, MATS], ids=lambda make: make.name
)
def test_as_they_come_they_are_not(trained, make):
    """The identities above would also hold between methods that do nothing."""
    found = trained(make, **{"alpha": 1e3} if make is GMED else {})
    assert not any(torch.equal(found, trained(other)) for other in {ER, DERpp, Finetune} - {make})
