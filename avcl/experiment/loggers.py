"""Loggers: TensorBoard and a progress bar by default; CSV and Weights & Biases where a run file asks for them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from uuid import uuid4

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from avcl.compat import BaseLogger, MetricValue
from avcl.errors import UserError
from avcl.experiment.board import Board
from avcl.hookspecs import hookimpl
from avcl.report.tables import progress_lines
from avcl.settings import Component
from avcl.training.learner import Learner
from avcl.utils import atomic
from avcl.utils.console import Terminal

if TYPE_CHECKING:
    from avcl.experiment.run import Run


class Bar(BaseLogger):
    """A progress bar over the whole stream with the time left; a line per epoch where there is no terminal.

    After every evaluation a line for each direction of retrieval. ``clips``: how many each task trains on ·
    ``tasks``: their names in order.
    """

    name = "progress"

    def __init__(self, clips: Sequence[int], tasks: Sequence[str], console: Terminal | None = None):
        super().__init__()
        self.clips, self.tasks = clips, tasks
        self.console = console or Terminal(stderr=True)
        self.values: dict[str, Any] = {}
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
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


class Numbers(BaseLogger):
    """Base of loggers for plain numbers; images and text are left out."""

    optional: ClassVar[bool] = True
    """Whether a run file must name it."""

    def log_single_metric(self, name: str, value: Any, x_plot: int) -> None:
        """Write down one value where it is a number."""
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
            return
        self.write(x_plot, name, number)

    def write(self, step: int, tag: str, value: float) -> None:
        """Write down one number."""
        raise NotImplementedError


@dataclass(kw_only=True, eq=False)
class Csv(Component, Numbers):
    """``metrics.csv`` in the run folder: a row ``step,tag,value`` for every number; step counts batches."""

    name = "csv"

    def open(self, run: Run) -> None:
        """Keep the rows of an earlier run up to where it is resumed."""
        path, kept = run.folder / "metrics.csv", []
        if run.resumed_at >= 0 and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if row[0].isdecimal() and int(row[0]) <= run.resumed_at]
        self._file = path.open("w", newline="", encoding="utf-8", buffering=1)
        self._rows = csv.writer(self._file)
        self._rows.writerows([["step", "tag", "value"], *kept])

    def write(self, step: int, tag: str, value: float) -> None:
        """One row."""
        self._rows.writerow([step, tag, value])

    def close(self) -> None:
        """Write what is left."""
        if hasattr(self, "_file"):
            self._file.close()


@dataclass(kw_only=True, eq=False)
class WeightsAndBiases(Component, Numbers):
    """Weights & Biases (the package wandb): every number by its tag, over ``step``, and the run's settings.

    A resumed run goes on in the same one; what it logs again after its checkpoint is there twice.

    Args:
        project: Project of the run.
        entity: User or team; null for the default one of the account.
        mode: Whether to upload (online), or to keep everything in the run folder for `wandb sync` (offline).
    """

    name = "wandb"

    project: str = "avcl"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"

    def open(self, run: Run) -> None:
        """Begin a run named like the run folder, or go on with the one begun there."""
        try:
            import wandb
        except ImportError:
            raise UserError("loggers: wandb needs a missing package; run `python -m pip install wandb`") from None
        note = run.folder / "wandb-id.txt"
        if not note.exists():
            atomic.write_text(note, uuid4().hex)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            name=run.folder.path.name,
            id=note.read_text(),
            resume="allow" if self.mode == "online" else None,
            dir=run.folder.path,
            config=run.settings,
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, tag: str, value: float) -> None:
        """One value."""
        self._run.log({"step": step, tag: value})

    def close(self) -> None:
        """Upload what is left."""
        if hasattr(self, "_run"):
            self._run.finish()


@hookimpl
def loggers(run: Run) -> Iterable[BaseLogger]:
    """Register all of them."""
    clips = [len(experience.dataset) for experience in run.benchmark.train_stream]
    return [Board(run.folder, run.resumed_at), Bar(clips, run.parts), Csv(), WeightsAndBiases()]
