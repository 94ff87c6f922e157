"""The promises of a metric, checked on a run of two tasks, with pytest or without."""

from __future__ import annotations

import functools
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from avcl.compat import BaseLogger, MetricValue, PluginMetric, quiet_evaluator
from avcl.experiment.checkpoint import Checkpoints
from avcl.registry import LASTING
from avcl.strategy import Strategy
from avcl.testing.promises import Promise, global_state, keep, random_state, require, same
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner

Make = Callable[[], PluginMetric]


def check_metric(
    make: type[PluginMetric] | Make, promises: Sequence[Promise] = (), strategy: Callable[[], Strategy] = Strategy
) -> None:
    """BrokenPromise, which says what was found, at the first of ``promises`` that is broken; all by default.

    ``make`` is a metric class, or a function that makes a new one every time. Two tasks, ``task_0`` and
    ``task_1``, are trained and evaluated on by a backbone of a few thousand weights, under a ``strategy``.
    """

    @functools.wraps(make, updated=())
    def maker() -> PluginMetric:
        return make()

    maker.strategy = strategy  # type: ignore[attr-defined]
    keep(PluginMetric, maker, promises or PROMISES)


def has_a_name(make: Make) -> None:
    """str() names it, the same each time"""
    names = {str(make()), str(make())}
    name = min(names)
    require(len(names) == 1 and name and " at 0x" not in name, f"str() says {name!r}; define __str__")


def emits_finite_scalars(make: Make) -> None:
    """emits finite scalars, each with a tag and the step"""
    for size in (4, 1):
        run = _Run(make, batch_size=size, clips=4)
        values = run.values
        require(values or hasattr(run.metric, "results"), "emits nothing in two tasks; is a callback misspelt?")
        for value in values:
            require(isinstance(value, MetricValue), f"emits {value!r}; must be a MetricValue")
            named = isinstance(value.name, str) and value.name
            require(named, f"emits {value.value!r} under {value.name!r}; must have a tag such as 'train/speed'")
            number = float(value.value) if _scalar(value.value) else math.nan
            require(math.isfinite(number), f"emits {value.name} = {value.value!r}; must be a finite scalar")
            step = isinstance(value.x_plot, int) and value.x_plot >= 0
            require(step, f"emits {value.name} at {value.x_plot!r}; must be a step: learner.clock.train_iterations")


def gives_results_for_json(make: Make) -> None:
    """results() is a mapping that a JSON file can hold; with it come state_dict and load_state_dict"""
    metric = _Run(make).metric
    missing = [key for key in LASTING if not hasattr(metric, key)]
    require(len(missing) in (0, len(LASTING)), f"missing: {', '.join(missing)}; results last as long as the run")
    if not missing:
        results = metric.results()
        require(isinstance(results, dict), f"results() returned a {type(results).__name__}; must be a mapping")
        held = json.loads(json.dumps(results, allow_nan=False))
        require(held == results, f"results() returned {results}, of which JSON makes {held}")


def has_no_side_effects(make: Make) -> None:
    """no side effects on weights, batches, outputs or random state"""
    found = []
    for measured in (True, False):
        with random_state(1):
            run = _Run(make, measured=measured)
            found.append((run.learner.state_dict(), run.seen, global_state()))
    for one, two, what in zip(*found, ("training", "batches or outputs", "a global generator"), strict=True):
        require(same(one, two), f"changes {what}")


def resumes(make: Make) -> None:
    """resumes: between tasks its state_dict goes to a checkpoint and back, and the rest comes out the same"""
    whole, again = _Run(make, save=True), _Run(make)
    fresh = make()
    if hasattr(fresh, "results"):
        fresh.load_state_dict(whole.saved["metric"])
        told = "results() differ after state_dict went to a checkpoint and back"
        require(same(fresh.results(), whole.results), told)
    resumed = _Run(make, state=whole.saved)
    expected, other = whole.values[whole.values_saved :], again.values[whole.values_saved :]
    tags = [[(value.name, value.x_plot) for value in values] for values in (expected, resumed.values)]
    require(tags[0] == tags[1], f"emits other tags or steps once resumed: {sorted(set(tags[0]) ^ set(tags[1]))}")
    for one, two, here in zip(expected, other, resumed.values, strict=True):
        timed = not same(one.value, two.value)  # a measure of time differs from run to run
        told = f"{one.name} is {here.value!r} once resumed, and {one.value!r} without a stop"
        require(timed or same(here.value, one.value), f"{told}; keep it in state_dict, beside results")


PROMISES: tuple[Promise, ...] = (
    has_a_name,
    emits_finite_scalars,
    gives_results_for_json,
    has_no_side_effects,
    resumes,
)
"""What every metric keeps."""


class _Run(BaseLogger):
    """Two tasks, trained and evaluated on, with one metric or none; writes down what it emits and leaves behind.

    ``measured``: whether with the metric · ``save``: keeps what a checkpoint after the first task holds
    ``state``: goes on from there.
    """

    def __init__(
        self,
        make: Make,
        measured: bool = True,
        batch_size: int = 4,
        clips: int = 8,
        save: bool = False,
        state: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.metric: Any = make() if measured else None
        self.values: list[MetricValue] = []
        self.seen: list[Any] = []
        metrics = [self.metric] if measured else []
        self.learner = Learner(
            backbone=small_backbone(),
            strategy=getattr(make, "strategy", Strategy)(),
            evaluator=quiet_evaluator(*metrics, loggers=(self,)),
            epochs=1,
            batch_size=batch_size,
            eval_batch_size=batch_size,
            lr=1e-3,
        )
        if state is not None:
            self.learner.load_state_dict(state["learner"])
            if self.metric is not None and hasattr(self.metric, "results"):
                self.metric.load_state_dict(state["metric"])
        streams = Noise(clips_per_task=clips).benchmark()
        for task in range(self.learner.tasks_done, 2):
            self.learner.train(streams.train_stream[task])
            self.learner.eval(streams.eval_stream)
            if save and not task:
                self._save()

    def log_metrics(self, metric_values: list[MetricValue]) -> None:
        """Write down what the metric emits."""
        self.values += metric_values

    def after_training_iteration(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """Write down what others may read after the metric."""
        self.seen.append([strategy.loss.clone(), {key: value.clone() for key, value in strategy.losses.items()}])
        self.seen.append({key: value.clone() for key, value in strategy.batch.tensors().items()})

    def after_eval_iteration(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """Write down what others may read after the metric."""
        self.seen.append([value.clone() for value in strategy.mb_output])
        self.seen.append({key: value.clone() for key, value in strategy.batch.tensors().items()})

    def _save(self) -> None:
        self.values_saved, self.results = len(self.values), None
        state: dict[str, Any] = {"learner": self.learner.state_dict(), "metric": None}
        if hasattr(self.metric, "results"):
            self.results = json.loads(json.dumps(self.metric.results()))
            state["metric"] = self.metric.state_dict()
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder))
            checkpoints.save(state, 0, keep=1)
            self.saved = checkpoints.newest()


def _scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
