"""Evaluations of trained weights: retrieval, probes, and heads on frozen features, for `avcl eval` and as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from avcl.compat import PluginMetric
from avcl.evaluation.metric import EvaluationMetric
from avcl.evaluation.protocol import Evaluation
from avcl.evaluation.retrieval import ZeroShotRetrieval
from avcl.hookspecs import hookimpl
from avcl.registry import registry

if TYPE_CHECKING:
    from avcl.experiment.run import Run


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """The bundled evaluations."""
    return [ZeroShotRetrieval]


@hookimpl
def metrics(run: Run) -> Iterable[PluginMetric]:
    """Every evaluation that is installed, for run files to pick by name."""
    for name, cls in sorted({cls.name: cls for _, cls in registry().offers("evaluations")}.items()):
        if cls.as_metric and not registry().conflict("evaluations", name):
            yield EvaluationMetric(cls.for_scenario(run.scenario), run.scenario)
