"""Every installed strategy keeps the promises, and each promise catches the one who breaks it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import NonNegativeFloat
from torch import nn

from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.gmed import GMED
from avcl.plugins.mir import MIR
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus
from avcl.registry import registry
from avcl.selection import Choice, Selection
from avcl.strategy import Rehearsal, Strategy
from avcl.testing import check_strategy
from avcl.testing import strategy as testing

INSTALLED = [cls for _, cls in registry().offers("strategies")]


@pytest.mark.parametrize("cls", INSTALLED, ids=lambda cls: cls.name)
def test_installed_strategies_keep_every_promise(cls):
    check_strategy(cls)


@pytest.mark.parametrize("cls", [cls for cls in INSTALLED if issubclass(cls, Rehearsal)], ids=lambda cls: cls.name)
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_memory_may_have_another_precision_than_the_backbone(cls, dtype):
    check_strategy(lambda: cls(memory=Memory(capacity=8, dtype=dtype)), [testing.trains])


def small():
    return Memory(capacity=8)


@pytest.mark.parametrize(
    ("cls", "beside"),
    [(ER, DERpp), (StellaPlus, CLSER), (MIR, Stella)],
    ids=["er-derpp", "stella-plus-cls-er", "mir-stella"],
)
def test_pairs_of_replaying_strategies_keep_every_promise(cls, beside):
    check_strategy(cls, beside=lambda: beside(memory=small()))


def test_a_strategy_that_rejects_every_clip_keeps_them_too():
    check_strategy(lambda: ESMER(loss_margin=1e-9, memory=small()))


HARSH = {
    "cls-er with masks of its own": lambda: CLSER(share_masks=False, memory=small()),
    "esmer with masks of its own": lambda: ESMER(share_masks=False, loss_margin=3.0, memory=small()),
    "mir with masks of its own, split": lambda: MIR(share_masks=False, contrastive_scope="split", memory=small()),
    "gmed that edits half precision": lambda: GMED(
        alpha=10.0, gamma=0.5, sign=-1, share_masks=False, replay=3, memory=Memory(capacity=8, dtype="float16")
    ),
}


@pytest.mark.parametrize("make", HARSH.values(), ids=HARSH)
def test_other_settings_have_no_side_effects_resume_and_take_any_batch(make):
    check_strategy(make, [testing.has_no_side_effects, testing.trains_on_any_batch, testing.resumes])


# ---- who breaks what ---------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Offender(Strategy):
    """Changes training by a penalty, so that whatever is wrong with it shows."""

    name = "offender"

    def factor(self, learner) -> Any:
        return 1.0

    def penalty(self, learner):
        return {"extra": self.factor(learner) * learner.output.audio.square().mean()}


class ReadsLabels(Offender):
    def factor(self, learner):
        return learner.batch.label.float().mean()


class ContrastsTrueLabels(Offender):
    def factor(self, learner):
        return learner.mbatch[0]["label"].float().mean()


class AddsALossAfterTheFirstBoundary(Offender):
    def factor(self, learner):
        return float(learner.tasks_done > 0)


class AsksWhoeverCalledIt(Offender):
    def factor(self, learner):
        return float(inspect.stack()[2].frame.f_locals["self"].tasks_done)


class ReadsLabelsOfTheData(Offender):
    """Takes them from whoever called it."""

    def factor(self, learner):
        loop = inspect.stack()[2].frame.f_locals["self"]
        return loop.adapted_dataset[0]["label"]


class KeepsAList(Offender):
    def begin(self, learner):
        self.past = []


class MakesStateLate(Offender):
    def observe(self, learner):
        self.level = 1.0


@dataclass(kw_only=True)
class ChangesItsSetting(Offender):
    weight: NonNegativeFloat = 1.0

    def observe(self, learner):
        self.weight *= 0.9


class DrawsGlobally(Offender):
    def factor(self, learner):
        return float(torch.rand(()))


class DrawsFromNumpy(Offender):
    def factor(self, learner):
        return float(np.random.rand())


class DrawsForNothing(Offender):
    def observe(self, learner):
        torch.rand(())


class HidesItsState(Offender):
    def begin(self, learner):
        self._steps = 0

    def factor(self, learner):
        self._steps += 1
        return self._steps


class HidesLateState(Offender):
    """What it hides matters only after the end: no weight shows it yet."""

    def begin(self, learner):
        self._steps = 0
        self.total = 0

    def observe(self, learner):
        self._steps += 1
        self.total = self._steps


class HidesItsTensor(Offender):
    """A tensor that is changed in place under a name that is not saved."""

    def begin(self, learner):
        self._level = torch.ones(())

    def factor(self, learner):
        return self._level

    def observe(self, learner):
        self._level *= 0.9


class TrainsOnItsOwn(Offender):
    def prepare(self, learner):
        clip, backbone = learner.batch, learner.backbone
        masks = backbone.draw_masks(clip, learner.generators["auxiliary"])
        backbone(clip, masks).loss.mean().backward()


class MovesWeights(Offender):
    def observe(self, learner):
        with torch.no_grad():
            next(learner.backbone.parameters()).mul_(0.99)


class DrawsTheLoopsMasks(Offender):
    def prepare(self, learner):
        learner.backbone.draw_masks(learner.batch, learner.generators["mask"])


@dataclass(kw_only=True)
class TakesAnything(Offender):
    level: Any = 1.0


class NeedsTwoClips(Offender):
    def factor(self, learner):
        return torch.ones(()) / (len(learner.output.audio) - 1)


class NeedsAFullMemory(Rehearsal):
    name = "offender"

    def penalty(self, learner):
        return {"extra": learner.output.audio[learner.num_current :].sum() / len(self._past)}


class NeedsAMemoryLater(Rehearsal):
    name = "offender"

    def observe(self, learner):
        super().observe(learner)
        self.memory.sample(1)


class TakesTheRest(Rehearsal):
    """Whatever is not current, it thinks, is its own."""

    name = "offender"

    def remember(self, learner):
        return {"was": learner.output.audio[: learner.num_current]}

    def penalty(self, learner):
        moved = 0.0 if self._past is None else learner.output.audio[learner.num_current :] - self._past.extra["was"]
        return {"moved": torch.as_tensor(moved).square().mean()}


class LogsNothingUseful(Offender):
    def log(self):
        return {"level": float("nan")}


class UndoesEveryStep(Offender):
    def prepare(self, learner):
        self._before = [parameter.detach().clone() for parameter in learner.backbone.parameters()]

    def observe(self, learner):
        with torch.no_grad():
            for parameter, before in zip(learner.backbone.parameters(), self._before, strict=True):
                parameter.copy_(before)


class FailsInHalfPrecision(Offender):
    def begin(self, learner):
        self.own = nn.Linear(24, 24)

    def factor(self, learner):
        return (learner.output.audio @ self.own.weight.double()).mean() if torch.is_autocast_enabled("cpu") else 1.0


class Selects(Offender):
    """Keeps half of all patches, the first ones."""

    def selection(self, backbone, clip, generator):
        kept = torch.arange(4).expand(len(clip), -1)
        return Selection(video=Choice.blind(kept, 8), audio=Choice.blind(kept, 8))


class SelectsGlobally(Selects):
    def selection(self, backbone, clip, generator):
        torch.rand(())
        return super().selection(backbone, clip, generator)


class CountsItsSelections(Selects):
    def begin(self, learner):
        self.count = 0

    def selection(self, backbone, clip, generator):
        self.count += 1
        return super().selection(backbone, clip, generator)


class SelectsAPatchTwice(Selects):
    def selection(self, backbone, clip, generator):
        found = super().selection(backbone, clip, generator)
        return found._replace(audio=Choice.blind(torch.zeros(len(clip), 2, dtype=torch.long), 8))


class ScoresTooFewPatches(Selects):
    def selection(self, backbone, clip, generator):
        found = super().selection(backbone, clip, generator)
        return found._replace(video=Choice.blind(found.video.kept, 4))


AGAIN = "stopped after batch 1 and resumed, "
CAUGHT = {
    TakesAnything: (testing.refuses_invalid_settings, "level takes anything; annotate it with what it may be"),
    KeepsAList: (testing.makes_its_state_in_begin, "offender.past: a list cannot be saved"),
    LogsNothingUseful: (testing.trains, "log() returned {'level': nan}; must be finite floats"),
    UndoesEveryStep: (testing.trains, "the weights are those of the beginning"),
    ReadsLabels: (testing.reads_no_labels, "failed in penalty: HiddenError: clip.label is hidden"),
    ContrastsTrueLabels: (testing.reads_no_labels, "AttributeError: 'LearnerView' object has no attribute 'mbatch'"),
    AddsALossAfterTheFirstBoundary: (testing.reads_no_labels, "has no attribute 'tasks_done'"),
    AsksWhoeverCalledIt: (testing.ignores_boundaries, "other task boundaries gave other weights"),
    NeedsAFullMemory: (testing.trains, "failed in penalty: TypeError"),
    MakesStateLate: (testing.adds_no_state, "made after begin: level"),
    ChangesItsSetting: (testing.adds_no_state, "changed weight; keep what changes under another name"),
    DrawsGlobally: (testing.is_deterministic, "the same seed gave other weights under another global random state"),
    DrawsFromNumpy: (testing.is_deterministic, "other weights"),
    ReadsLabelsOfTheData: (testing.reads_no_labels, "other labels and task ids gave other weights"),
    TrainsOnItsOwn: (testing.has_no_side_effects, "prepare changed gradients; take derivatives by torch.autograd.grad"),
    MovesWeights: (testing.has_no_side_effects, "observe changed weights that the optimizer trains"),
    DrawsTheLoopsMasks: (testing.has_no_side_effects, 'prepare drew from generators["mask"]; there is "auxiliary"'),
    DrawsForNothing: (testing.has_no_side_effects, "observe drew from a global generator; there is learner.generators"),
    SelectsGlobally: (testing.selects_without_side_effects, "it drew from a global generator"),
    CountsItsSelections: (testing.selects_without_side_effects, "it changed the strategy, the backbone or a generator"),
    SelectsAPatchTwice: (testing.selects_without_side_effects, "of audio it keeps a patch twice"),
    ScoresTooFewPatches: (testing.selects_without_side_effects, "importance of video is (3, 4); must be (3, 8)"),
    NeedsTwoClips: (testing.trains_on_any_batch, "the loss is not finite"),
    NeedsAMemoryLater: (testing.trains_with_little_memory, "failed in observe: ValueError: memory.sample: the memory"),
    TakesTheRest: (testing.trains_beside_another, "failed in penalty: RuntimeError: The size of tensor a"),
    FailsInHalfPrecision: (testing.trains_in_half_precision, "failed in penalty: RuntimeError"),
    HidesItsState: (testing.resumes, f"{AGAIN}backbone end otherwise; a name with an underscore"),
    HidesLateState: (testing.resumes, f"{AGAIN}strategies end otherwise; a name with an underscore is for"),
    HidesItsTensor: (testing.resumes, f"{AGAIN}backbone end otherwise"),
}


@pytest.mark.parametrize("cls", CAUGHT, ids=lambda cls: cls.__name__)
def test_who_breaks_a_promise_is_caught(caught, cls):
    caught(check_strategy, cls, *CAUGHT[cls])


def test_every_promise_has_an_offender():
    assert {promise for promise, _ in CAUGHT.values()} == set(testing.PROMISES)


class SeesBoundaries(Offender):
    needs_boundaries = True

    def factor(self, learner):
        return learner.current.label.float().mean()


@dataclass(kw_only=True)
class Scaled(Offender):
    """Has no default for its setting: a function has to make it."""

    scale: NonNegativeFloat

    def factor(self, learner):
        return self.scale


@pytest.mark.parametrize("make", [Offender, SeesBoundaries, Selects, lambda: Scaled(scale=0.5)])
def test_the_innocent_pass(make):
    check_strategy(make)
