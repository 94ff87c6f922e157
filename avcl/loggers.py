"""Where numbers go by default: TensorBoard, and a bar on a terminal or plain lines elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from avcl.compat import BaseLogger, MetricValue, TensorboardLogger
from avcl.hookspecs import hookimpl
from avcl.learner import Learner

if TYPE_CHECKING:
    from avcl.run import Run

log = logging.getLogger(__name__)


class Bar(BaseLogger):
    """A progress bar over the whole stream with the time left; a line per epoch where there is no terminal.

    ``batches``: of the whole stream · ``tasks``: their names in order · ``measure``: whose average and
    forgetting is said after every evaluation.
    """

    def __init__(
        self, batches: int, tasks: Sequence[str], measure: str = "a2v/R@10", console: Console | None = None
    ):
        super().__init__()
        self.tasks, self.measure = tasks, measure
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
        self.row = self.bar.add_task("starting", total=batches)

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Remember the last value of everything."""
        self.values[name] = value

    def before_training(self, strategy: Learner, metric_values: list[MetricValue]) -> None:
        """Show the bar."""
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
        """A line with average and forgetting, over the bar or without one."""
        said = [f"{name} {self.values[tag]:.1f}" for name in ("average", "forgetting") if (tag := self._tag(name))]
        if said and strategy.tasks_done:
            task = self.tasks[strategy.tasks_done - 1]
            self.console.print(f"after {task}: {self.measure} {', '.join(said)}", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bar.stop()

    def _tag(self, name: str) -> str | None:
        tag = f"eval/{self.measure}/{name}"
        return tag if tag in self.values else None

    def _where(self, learner: Learner) -> str:
        number = learner.tasks_done
        epoch = (learner.batches_done - 1) // learner.batches_per_epoch + 1
        place = f"task {number + 1}/{len(self.tasks)} {self.tasks[number]}, epoch {epoch}/{learner.train_epochs}"
        loss = self.values.get("train/loss/total")
        return place if loss is None else f"{place}, loss {loss:.3f}"


@hookimpl
def loggers(run: Run) -> Iterable[BaseLogger]:
    """Register TensorBoard and the bar."""
    return [TensorboardLogger(run.folder), Bar(run.batches, run.scenario.task_names)]
