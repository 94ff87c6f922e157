"""What a run measures by default: loss terms, throughput, retrieval with average and forgetting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from avcl.compat import PluginMetric
from avcl.hookspecs import hookimpl
from avcl.metrics.efficiency import Efficiency
from avcl.metrics.loss import LossTerms
from avcl.metrics.modality_gap import ModalityGap
from avcl.metrics.retrieval import Retrieval
from avcl.metrics.selection import SelectionScores
from avcl.metrics.throughput import Throughput

if TYPE_CHECKING:
    from avcl.experiment.run import Run

__all__ = ["Efficiency", "LossTerms", "ModalityGap", "Retrieval", "SelectionScores", "Throughput"]


@hookimpl
def metrics(run: Run) -> Iterable[PluginMetric]:
    """Register the default metrics."""
    tasks, extra = run.scenario.task_names, run.scenario.gallery_only
    yield from (LossTerms(), Throughput(), Retrieval(tasks, joint=run.joint, leave_out=extra))
    yield from (Efficiency(), ModalityGap(joint=run.joint), SelectionScores(run.scenario))
    if extra:  # the STELLA authors' gallery beside the paper's
        yield Retrieval(tasks, joint=run.joint, name="retrieval_all_classes")
