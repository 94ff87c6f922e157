"""Every installed strategy keeps the promises, and each promise catches the one who breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER
from avcl.plugins.esmer import ESMER
from avcl.plugins.gmed import GMED
from avcl.plugins.mir import MIR
from avcl.registry import registry
from avcl.settings import NonNegative
from avcl.strategy import Rehearsal, Strategy
from avcl.testing import strategy as testing
from avcl.testing.strategy import PROMISES, check_strategy


@pytest.mark.parametrize("cls", [cls for _, cls in registry().offers("strategies")], ids=lambda cls: cls.name)
def test_installed_strategies_keep_every_promise(cls):
    check_strategy(cls)


WITH_MEMORY = [cls for _, cls in registry().offers("strategies") if issubclass(cls, Rehearsal)]


@pytest.mark.parametrize("cls", WITH_MEMORY, ids=lambda cls: cls.name)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_memory_may_have_another_precision_than_the_backbone(cls, dtype):
    testing.trains(lambda: cls(memory=Memory(capacity=8, dtype=dtype)))


def small():
    return Memory(capacity=8)


def test_a_strategy_that_rejects_every_clip_keeps_them_too():
    check_strategy(lambda: ESMER(margin=1e-9, memory=small()))


HARSH = {
    "cls-er with masks of its own": lambda: CLSER(share_masks=False, memory=small()),
    "esmer with masks of its own": lambda: ESMER(share_masks=False, margin=3.0, memory=small()),
    "mir with masks of its own, split": lambda: MIR(share_masks=False, contrastive_scope="split", memory=small()),
    "gmed that edits half precision": lambda: GMED(
        stride=10.0, fading=0.5, sign=-1, share_masks=False, replay=3, memory=Memory(capacity=8, dtype="float16")
    ),
}


@pytest.mark.parametrize("make", HARSH.values(), ids=HARSH)
def test_other_settings_go_on_after_a_stop_and_take_any_batch(make):
    for promise in (testing.leaves_the_loop_alone, testing.works_with_any_batch, testing.resumes):
        promise(make)


# ---- who breaks what ---------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Offender(Strategy):
    """Changes training by a penalty, so that whatever is wrong with it shows."""

    name = "offender"

    def factor(self, learner) -> Any:
        return 1.0

    def penalty(self, learner):
        return {"extra": self.factor(learner) * learner.output.audio.square().mean()}


@dataclass(kw_only=True)
class ReadsLabels(Offender):
    def factor(self, learner):
        return learner.batch.label.float().mean()


@dataclass(kw_only=True)
class ReadsRawLabels(Offender):
    def factor(self, learner):
        return float(learner.mbatch[0]["label"].float().mean())


@dataclass(kw_only=True)
class ReadsTasks(Offender):
    def factor(self, learner):
        return learner.current.task.float().mean()


@dataclass(kw_only=True)
class KeepsAList(Offender):
    def begin(self, learner):
        self.past = []


@dataclass(kw_only=True)
class MakesStateLate(Offender):
    def observe(self, learner):
        self.level = 1.0


@dataclass(kw_only=True)
class ChangesItsSetting(Offender):
    weight: NonNegative = 1.0

    def observe(self, learner):
        self.weight *= 0.9


@dataclass(kw_only=True)
class DrawsGlobally(Offender):
    def factor(self, learner):
        return float(torch.rand(()))


@dataclass(kw_only=True)
class DrawsFromNumpy(Offender):
    def factor(self, learner):
        return float(np.random.rand())


@dataclass(kw_only=True)
class HidesItsState(Offender):
    def begin(self, learner):
        self._steps = 0

    def factor(self, learner):
        self._steps += 1
        return self._steps


@dataclass(kw_only=True)
class HidesLateState(Offender):
    """What it hides matters only after the end: no weight shows it yet."""

    def begin(self, learner):
        self._steps = 0
        self.total = 0

    def observe(self, learner):
        self._steps += 1
        self.total = self._steps


@dataclass(kw_only=True)
class HidesItsModule(Offender):
    """A tensor that is changed in place under a name that is not saved."""

    def begin(self, learner):
        self._level = torch.ones(())

    def factor(self, learner):
        return self._level

    def observe(self, learner):
        self._level *= 0.9


@dataclass(kw_only=True)
class TrainsOnItsOwn(Offender):
    def prepare(self, learner):
        clip, backbone = learner.batch, learner.backbone
        masks = backbone.draw_masks(clip, learner.generators["auxiliary"])
        backbone(clip, masks).loss.mean().backward()


@dataclass(kw_only=True)
class MovesWeights(Offender):
    def observe(self, learner):
        with torch.no_grad():
            next(learner.parameters()).mul_(0.99)


@dataclass(kw_only=True)
class DrawsTheLoopsMasks(Offender):
    def prepare(self, learner):
        learner.backbone.draw_masks(learner.batch, learner.generators["mask"])


@dataclass(kw_only=True)
class TakesAnything(Offender):
    level: Any = 1.0


@dataclass(kw_only=True)
class NeedsTwoClips(Offender):
    def factor(self, learner):
        return learner.output.audio.detach().std(0).mean()  # of one clip: not a number


@dataclass(kw_only=True)
class NeedsAFullMemory(Rehearsal):
    name = "offender"

    def penalty(self, learner):
        return {"extra": learner.output.audio[learner.fresh :][: learner.fresh].sum() / len(self._past)}


@dataclass(kw_only=True)
class SaysNothingUseful(Offender):
    def log(self):
        return {"level": float("nan")}


@dataclass(kw_only=True)
class FailsInHalfPrecision(Offender):
    def begin(self, learner):
        self.own = nn.Linear(24, 24)

    def factor(self, learner):
        return (learner.output.audio @ self.own.weight.double()).mean() if learner.precision != "fp32" else 1.0


CAUGHT = {
    ReadsLabels: r"offender breaks a promise, that a strategy .*HiddenError: clip.label is hidden",
    ReadsTasks: r"HiddenError: clip.task is hidden",
    ReadsRawLabels: r"never reads labels or tasks: other labels and task numbers gave other weights",
    KeepsAList: r"makes all of its state in begin.*offender.past: a list cannot be saved",
    MakesStateLate: r"makes all of its state in begin.*made after begin: level",
    ChangesItsSetting: r"never changes a setting: changed weight; keep what changes under another name",
    DrawsGlobally: r"does the same twice.*the same seed gave other weights",
    DrawsFromNumpy: r"other weights",
    HidesItsState: r"goes on identically from a checkpoint after any batch: stopped after batch 1 and resumed, back",
    HidesLateState: r"stopped after batch 1 and resumed, strategies end otherwise; a name with an underscore is for",
    HidesItsModule: r"stopped after batch 1 and resumed, backbone end otherwise",
    TrainsOnItsOwn: r"prepare changed gradients; take derivatives by torch.autograd.grad",
    MovesWeights: r"observe changed weights that the optimizer trains",
    DrawsTheLoopsMasks: r'prepare drew from generators\["mask"\]; there is "auxiliary"',
    TakesAnything: r"refuses bad settings by their names.*level takes anything; annotate it with what it may be",
    NeedsTwoClips: r"works with batches of 1 and 2 clips",
    NeedsAFullMemory: r"breaks a promise.*TypeError",
    SaysNothingUseful: r"trains two tasks.*log\(\) says \{'level': nan\}; floats are needed",
    FailsInHalfPrecision: r"trains in bfloat16 and float16: RuntimeError",
}


@pytest.mark.parametrize("cls", CAUGHT, ids=lambda cls: cls.__name__)
def test_who_breaks_a_promise_is_caught(cls):
    with pytest.raises(AssertionError, match=CAUGHT[cls]):
        check_strategy(cls)


def test_the_innocent_one_passes():
    check_strategy(Offender)


@dataclass(kw_only=True)
class SeesBoundaries(ReadsLabels):
    needs_boundaries = True


def test_who_declares_it_may_read_labels():
    check_strategy(SeesBoundaries)


@dataclass(kw_only=True)
class Scaled(Offender):
    """Has no default for its setting: a function has to make it."""

    scale: NonNegative

    def factor(self, learner):
        return self.scale


def test_a_function_may_make_them():
    check_strategy(lambda: Scaled(scale=0.5))
    with pytest.raises(TypeError, match="scale"):
        check_strategy(Scaled)


def test_a_promise_can_be_checked_alone():
    names = [promise.__name__ for promise in PROMISES]
    assert names[-1] == "resumes"
    testing.resumes(Offender)
    with pytest.raises(AssertionError, match="resumed, backbone end otherwise"):
        testing.resumes(HidesItsState)
    assert all(promise.__doc__ for promise in PROMISES)
