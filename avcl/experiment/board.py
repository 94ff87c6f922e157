"""TensorBoard, with the answer first: average and forgetting, then all tasks of a measure in one chart."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from avcl.compat import BaseLogger, MetricValue, TensorboardLogger
from avcl.report.matrix import matrix_figure, pixels
from avcl.training.learner import Learner

if TYPE_CHECKING:
    from avcl.experiment.run import Run

DIRECTIONS = ("a2v", "v2a")
MEASURES = ("R@mean", "R@1", "R@5", "R@10", "median_rank")
ANSWER = ("average", "forgetting", "learning_accuracy")
Layout = dict[str, dict[str, list[Any]]]


class Board(TensorboardLogger):
    """Avalanche's TensorBoard logger, laid out to be read.

    What an earlier run wrote after ``resumed_at`` steps is taken back. Besides every metric's values there are:
    ``continual/<average|forgetting|learning_accuracy>``, of the mean recall over both directions, and the image
    ``continual/task_matrix``, which are the first group of the page; under "Custom scalars" a chart for each measure
    with all tasks in it; ``settings`` as text, and as hyper-parameters with average and forgetting, so that the runs
    of a folder can be compared.
    """

    name = "tensorboard"

    def __init__(self, folder: str | os.PathLike[str], resumed_at: int = -1):
        BaseLogger.__init__(self)  # Avalanche's own would open a second file, without a step to purge from
        self.folder, self.resumed_at = folder, resumed_at
        self.tasks: Sequence[str] = ()
        self.parts: Sequence[str] = ()

    @cached_property
    def writer(self) -> SummaryWriter:
        """Opens its file when it is first written to.

        It writes in a thread of its own, whose errors it raises where the next value is written, or in ``close``: the
        thread need not print them, too.
        """
        self._hook, threading.excepthook = threading.excepthook, self._of_a_thread
        return SummaryWriter(self.folder, purge_step=self.resumed_at + 1)

    def _of_a_thread(self, args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__ != event_file_writer.__name__:
            self._hook(args)

    def open(self, run: Run) -> None:
        """Write what is known before the first step: charts and settings."""
        self.tasks, self.parts = run.scenario.task_names, run.parts
        self.writer.add_custom_scalars(layout(self.tasks))
        if run.settings:
            text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
            self.writer.add_text("settings", "".join(f"    {line}\n" for line in text.splitlines()))
            answer = {f"continual/{name}": 0.0 for name in ("average", "forgetting")}
            experiment, started, self._ended = hparams(dict(flat(run.settings)), answer)
            self._add(experiment, started)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Write one value, unless it is a variant or a constant that ``results.json`` has."""
        if not name.endswith(("/forgetting_with_last", "_chance")):
            super().log_single_metric(name, value, x_plot)

    def after_eval(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """The answer so far; not within a task."""
        if strategy.batches_done:
            return
        step, found = strategy.clock.train_iterations, {value.name: value.value for value in metric_values}
        for name in ANSWER:
            both = [found.get(f"eval/{direction}/R@mean/{name}") for direction in DIRECTIONS]
            known = [float(value) for value in both if value is not None]
            if len(known) == len(both):
                self.writer.add_scalar(f"continual/{name}", sum(known) / len(known), step)
        matrices = dict(self._matrices(strategy))
        if matrices:
            figure = matrix_figure(
                matrices, self.tasks, self.parts, "Mean recall of every task after every task, percent"
            )
            self.log_single_metric("continual/task_matrix", pixels(figure), step)

    def _matrices(self, learner: Learner) -> Iterator[tuple[str, Any]]:
        for metric in learner.evaluator.metrics:
            measures = metric.results().get("measures", {}) if str(metric) == "retrieval" else {}
            for direction, title in zip(DIRECTIONS, ("audio -> video", "video -> audio"), strict=True):
                if matrix := measures.get(f"{direction}/R@mean", {}).get("matrix"):
                    yield title, matrix

    def _add(self, *summaries: Any) -> None:
        """Write summaries that torch's writer would put into a folder of their own."""
        file: Any = self.writer.file_writer
        for summary in summaries:
            file.add_summary(summary)

    def close(self) -> None:
        """Write what is left."""
        if "writer" not in vars(self):
            return
        try:
            if hasattr(self, "_ended"):
                self._add(self._ended)
            self.writer.flush()  # says what failed in its thread; close would not
        finally:
            self.writer.close()
            threading.excepthook = self._hook


def layout(tasks: Sequence[str]) -> Layout:
    """The charts of "Custom scalars": the answer, every measure with all tasks in one chart, selection, training."""

    def chart(*tags: str) -> list[Any]:
        return ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]]

    both = [f"eval/{direction}/R@mean" for direction in DIRECTIONS]
    answer = {
        "average of mean recall over both directions, and chance": chart("continual/average", f"{both[0]}/chance"),
        "forgetting": chart("continual/forgetting", *(f"{tag}/forgetting" for tag in both)),
        "learning accuracy: each task right after it was learned": chart("continual/learning_accuracy"),
        "average by direction": chart(*(f"{tag}/average" for tag in both)),
    }
    every = {
        f"{direction} {measure}": chart(*(f"eval/{direction}/{measure}/{name}" for name in (*tasks, "chance")))
        for measure in MEASURES
        for direction in DIRECTIONS
    }
    kinds = ("video", "audio")
    selection = {
        "AUC of importance for the source (chance: 0.5)": chart(*(f"eval/selection/{kind}/auc" for kind in kinds)),
        **{
            f"share of the source in {kind} patches": chart(
                *(f"eval/selection/{kind}/source_{part}" for part in ("kept", "visible", "pruned", "all"))
            )
            for kind in kinds
        },
        "entropy of importance (1: uniform)": chart(*(f"eval/selection/{kind}/entropy" for kind in kinds)),
        "attention kept of earlier tasks (1: nothing forgotten)": chart(*(f"eval/attention/{kind}" for kind in kinds)),
    }
    training = {
        "loss": ["Multiline", ["^train/loss/"]],
        "modality gap": chart("eval/modality_gap/average", "eval/modality_gap/drift"),
        "clips per second": chart("train/speed/clips_per_second"),
        "peak memory, MiB": chart("train/speed/peak_memory_mib"),
    }
    return {"Average and forgetting": answer, "Every task": every, "Selection": selection, "Training": training}


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | str | float | int]]:
    """Nested settings as ``("learner.lr", 0.001)``; what is no number, truth value or text becomes text."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, bool | str | float | int) else str(value)
