"""Bundled metrics keep the promises, and each promise catches the one who breaks it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avcl.compat import MetricValue, PluginMetric
from avcl.metrics import Efficiency, LossTerms, Retrieval, Throughput
from avcl.registry import LASTING
from avcl.testing import check_metric
from avcl.testing import metric as testing


@pytest.mark.parametrize("make", [LossTerms, Throughput, Efficiency, lambda: Retrieval(("one", "two"))])
def test_bundled_metrics_keep_every_promise(make):
    check_metric(make)


# ---- who breaks what ---------------------------------------------------------------------------------------


class Offender(PluginMetric):
    """The sum of all losses so far, over all tasks."""

    tag = "train/total_loss"

    def __init__(self):
        super().__init__()
        self.total = 0.0

    def after_training_iteration(self, strategy):
        self.total += float(strategy.loss)
        return self.shown(self.total, strategy)

    def shown(self, value, learner):
        return [MetricValue(self, self.tag, value, learner.clock.train_iterations)]

    def result(self):
        return self.total

    def reset(self):
        self.total = 0.0

    def results(self):
        return {"total": self.total}

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]

    def __str__(self):
        return "total"


def test_the_innocent_one_passes():
    check_metric(Offender)


def like(**members):
    """An offender of other members."""
    return type("Other", (Offender,), members)


def showing(change):
    """An offender that emits something else."""
    return like(shown=lambda self, value, learner: change(self, value, learner.clock.train_iterations))


class Lasts(Offender):
    """Remembers, but not in a checkpoint."""

    def __getattribute__(self, name):
        if name in LASTING:
            raise AttributeError(name)
        return super().__getattribute__(name)


class LastsAlone(Offender):
    def __getattribute__(self, name):
        if name in LASTING[1:]:
            raise AttributeError(name)
        return super().__getattribute__(name)


class Normalises(Offender):
    def after_eval_iteration(self, strategy):
        for side in strategy.mb_output:
            side /= side.norm(dim=1, keepdim=True)


class Trains(Offender):
    def after_training_iteration(self, strategy):
        with torch.no_grad():
            next(strategy.parameters()).mul_(0.9)


class Draws(Offender):
    def after_eval(self, strategy):
        torch.rand(3)


class SpellsWrong(Lasts):
    after_training_iteration = None
    after_traning_iteration = Offender.after_training_iteration

    def __getattribute__(self, name):
        if name == "after_training_iteration":
            raise AttributeError(name)
        return super().__getattribute__(name)


class HoldsAnArray(Offender):
    def state_dict(self):
        return {"total": np.array([self.total])}


EMITS, RESULTS, EFFECTS = testing.emits_finite_scalars, testing.gives_results_for_json, testing.has_no_side_effects
CAUGHT = {
    "no name": (like(__str__=object.__repr__), testing.has_a_name, "define __str__"),
    "a number": (showing(lambda self, value, step: [value]), EMITS, "'float' object has no attribute 'name'"),
    "not a number": (
        showing(lambda self, value, step: [MetricValue(self, "loss", np.nan, step)]),
        EMITS,
        "emits loss = nan; must be a finite scalar",
    ),
    "a vector": (
        showing(lambda self, value, step: MetricValue(self, "loss", torch.ones(2), step)),
        EMITS,
        "emits loss = tensor([1., 1.]); must be a finite scalar",
    ),
    "no tag": (like(tag=""), EMITS, "under ''; must have a tag such as 'train/speed'"),
    "no step": (
        showing(lambda self, value, step: MetricValue(self, "loss", value, None)),
        EMITS,
        "emits loss at None; must be a step",
    ),
    "misspelt": (SpellsWrong, EMITS, "emits nothing in two tasks; is a callback misspelt?"),
    "no state": (LastsAlone, RESULTS, "missing: state_dict, load_state_dict; results last as long as the run"),
    "a list": (like(results=lambda self: [self.total]), RESULTS, "results() returned a list; must be a mapping"),
    "NaN": (like(results=lambda self: {"a": np.nan}), RESULTS, "ValueError: Out of range float values are not JSON"),
    "numbered": (like(results=lambda self: {1: 2.0}), RESULTS, "results() returned {1: 2.0}, of which JSON makes {'1'"),
    "trains": (Trains, EFFECTS, "changes training"),
    "normalises": (Normalises, EFFECTS, "changes batches or outputs"),
    "draws": (Draws, EFFECTS, "changes a global generator"),
    "forgets": (Lasts, testing.resumes, "without a stop; keep it in state_dict, beside results"),
    "loads nothing": (
        like(load_state_dict=lambda self, state: None),
        testing.resumes,
        "results() differ after state_dict went to a checkpoint and back",
    ),
    "an array": (HoldsAnArray, testing.resumes, "Weights only load failed"),
}


@pytest.mark.parametrize("what", CAUGHT)
def test_who_breaks_a_promise_is_caught(caught, what):
    caught(check_metric, *CAUGHT[what])


def test_every_promise_has_an_offender():
    assert {promise for _, promise, _ in CAUGHT.values()} == set(testing.PROMISES)
