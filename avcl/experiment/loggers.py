"""The default loggers: TensorBoard, and a progress bar on a terminal or plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from avcl.compat import BaseLogger, MetricValue, TensorboardLogger
from avcl.hookspecs import hookimpl
from avcl.report.tables import progress_lines
from avcl.training.learner import Learner

if TYPE_CHECKING:
    from avcl.experiment.run import Run


class Bar(BaseLogger):
    """A progress bar over the whole stream with the time left; a line per epoch where there is no terminal.

    After every evaluation a line for each direction of retrieval. ``clips``: how many each task trains on ·
    ``tasks``: their names in order.
    """

    def __init__(self, clips: Sequence[int], tasks: Sequence[str], console: Console | None = None):
        super().__init__()
        self.clips, self.tasks = clips, tasks
        self.console = console or Console(stderr=True)
        self.values: dict[str, Any] = {}
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.row = self.bar.add_task("starting", total=None)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Remember the last value of everything."""
        self.values[name] = value

    def before_training(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """Show the bar; only now it is known how many batches there are."""
        total = sum(map(strategy.batches_of, self.clips)) * strategy.train_epochs
        self.bar.update(self.row, total=total, completed=strategy.clock.train_iterations)
        self.bar.start()

    def after_training_iteration(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """One batch further."""
        done = strategy.clock.train_iterations + 1
        self.bar.update(self.row, completed=done, description=self._where(strategy))

    def after_training_epoch(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """A line where there is no bar."""
        if self.bar.disable:
            self.console.print(self._where(strategy), soft_wrap=True)

    def after_eval(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """What was found, beside gallery and chance, over the bar or without one."""
        for metric in strategy.evaluator.metrics if strategy.tasks_done else ():
            for line in progress_lines(metric.results().get("measures", {}) if hasattr(metric, "results") else {}):
                self.console.print(f"after {self.tasks[strategy.tasks_done - 1]}: {line}", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()

    def _where(self, learner: Learner) -> str:
        number = learner.tasks_done
        epoch = (learner.batches_done - 1) // learner.batches_per_epoch + 1
        place = f"task {number + 1}/{len(self.tasks)} {self.tasks[number]}, epoch {epoch}/{learner.train_epochs}"
        loss = self.values.get("train/loss/total")
        return place if loss is None else f"{place}, loss {loss:.3f}"


class Board(TensorboardLogger):
    """Avalanche's TensorBoard logger; what an earlier run wrote after ``resumed_at`` steps is taken back."""

    writer: SummaryWriter

    def __init__(self, folder: str | os.PathLike[str], resumed_at: int = -1):
        BaseLogger.__init__(self)  # Avalanche's own would open a second file, without a step to purge from
        self.writer = SummaryWriter(folder, purge_step=resumed_at + 1)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


@hookimpl
def loggers(run: Run) -> Iterable[BaseLogger]:
    """Register TensorBoard and the bar."""
    clips = [len(experience.dataset) for experience in run.benchmark.train_stream]
    return [Board(run.folder, run.resumed_at), Bar(clips, run.parts)]
