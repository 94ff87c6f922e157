"""Evaluations of trained weights, and each of them as a metric that a run file picks by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from avcl.compat import PluginMetric
from avcl.evaluation.metric import EvaluationMetric
from avcl.hookspecs import hookimpl
from avcl.registry import registry

if TYPE_CHECKING:
    from avcl.experiment.run import Run


@hookimpl
def metrics(run: Run) -> Iterable[PluginMetric]:
    """Every evaluation that is installed, for run files to pick by name."""
    found: dict[str, Any] = {cls.name: cls for _, cls in registry().offers("evaluations")}
    for name, cls in sorted(found.items()):
        if cls.as_metric and not registry().conflict("evaluations", name):
            yield EvaluationMetric(cls.for_scenario(run.scenario), run.scenario)
