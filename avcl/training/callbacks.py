"""Callbacks: Avalanche plugins with settings and state, for what Avalanche's own cannot do here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from timm.scheduler import create_scheduler_v2

from avcl.compat import BaseSGDPlugin
from avcl.errors import UserError, nearest
from avcl.settings import Component

if TYPE_CHECKING:
    from avcl.training.learner import Learner

Measure = Literal[
    "a2v/R@1", "a2v/R@5", "a2v/R@10", "a2v/R@mean", "a2v/median_rank",
    "v2a/R@1", "v2a/R@5", "v2a/R@10", "v2a/R@mean", "v2a/median_rank",
]  # fmt: skip


@dataclass(kw_only=True, eq=False)
class Callback(Component, BaseSGDPlugin):
    """An Avalanche plugin with a name and settings; called after metrics and clock, saved in the checkpoint."""

    needs_boundaries: ClassVar[bool] = False
    """Whether it acts on task boundaries. Then the run is tagged so."""

    supports_distributed: ClassVar[bool] = True

    @property
    def address(self) -> str:
        """What `callbacks:` of a run file calls it: its name, or module:Class of one that avcl does not bring."""
        cls = type(self)
        return self.name if CALLBACKS.get(self.name) is cls else f"{cls.__module__}:{cls.__qualname__}"

    def begin(self, learner: Learner, steps: int) -> None:
        """A run is about to train ``learner`` for ``steps`` optimizer steps; UserError where that cannot be."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with: tensors, numbers and containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""


@dataclass(kw_only=True, eq=False)
class EarlyStopping(Callback):
    """Stops the training of a task once a retrieval measure of it no longer improves; the next task follows.

    It looks at the measure after every evaluation within a task (``evaluate_every`` of a run), and keeps the last
    weights, not the best. The evaluation clips choose where to stop: report that with the results.

    Args:
        measure: Retrieval measure to watch.
        score: Value of the measure: that of the current task, or the average over the tasks that had begun.
        patience: Evaluations without improvement after which the task's training stops.
        margin: Smallest change that is an improvement, in the unit of the measure.
    """

    name = "early-stopping"
    needs_boundaries = True

    measure: Measure = "a2v/R@mean"
    score: Literal["task", "average"] = "task"
    patience: PositiveInt = 3
    margin: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._best: float | None = None
        self._waited = 0

    @property
    def stopped(self) -> bool:
        """Whether the current task's training is over."""
        return self._waited >= self.patience

    def before_training_exp(self, strategy: Learner, **kwargs: Any) -> None:
        """A new task begins unjudged; one that was stopped before a resume stays so."""
        if not strategy.batches_done:
            self._best, self._waited = None, 0
        elif self.stopped:
            strategy.stop_training()

    def after_eval(self, strategy: Learner, **kwargs: Any) -> None:
        """Judge an evaluation within a task."""
        if not strategy.batches_done:
            return
        value = self._value(strategy)
        better = -1 if self.measure.endswith("rank") else 1
        if self._best is None or better * (value - self._best) > self.margin:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self.stopped:
            strategy.stop_training()

    def _value(self, learner: Learner) -> float:
        retrieval: Any = next((part for part in learner.evaluator.metrics if str(part) == "retrieval"), None)
        if retrieval is None:
            raise UserError(f"{self.name}: watches the metric 'retrieval', which is missing; add it to metrics")
        row = retrieval.anytime[self.measure][-1]
        begun = row if retrieval.joint else row[: learner.tasks_done + 1]
        return begun[-1] if self.score == "task" and not retrieval.joint else sum(begun) / len(begun)

    def state_dict(self) -> dict[str, Any]:
        """The task's best value, and evaluations since."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._best, self._waited = state["best"], state["waited"]


@dataclass(kw_only=True, eq=False)
class LrSchedule(Callback):
    """Learning-rate schedule of timm over the optimizer steps of the whole stream, with linear warm-up.

    The learning rate is a function of the number of steps alone, so that a resumed run goes on with it. Tasks that
    early stopping ends leave the end of the schedule out.

    Args:
        schedule: Schedule of timm: cosine, tanh and poly (polynomial) fall to min_lr, step and multistep by decay_rate.
        steps: Optimizer steps of the whole schedule, warm-up included; null for all steps of a run.
        warmup: Optimizer steps of linear learning-rate warm-up to learner.lr.
        warmup_lr: Learning rate at the start of the warm-up.
        min_lr: Lowest learning rate.
        decay_rate: Factor of the learning rate at each decay (step, multistep); power of the polynomial (poly).
        decay_every: Optimizer steps between decays (step).
        milestones: Optimizer steps, counted from 1, from which on it is lower by decay_rate (multistep).
    """

    name = "lr-schedule"

    schedule: Literal["cosine", "tanh", "poly", "step", "multistep"] = "cosine"
    steps: PositiveInt | None = None
    warmup: NonNegativeInt = 0
    warmup_lr: NonNegativeFloat = 0.0
    min_lr: NonNegativeFloat = 0.0
    decay_rate: PositiveFloat = 0.1
    decay_every: PositiveInt = 1000
    milestones: list[PositiveInt] = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.milestones = list(self.milestones)
        super().__post_init__()
        self._steps = self.steps

    def mistakes(self) -> Any:
        """A multistep schedule without milestones; a warm-up that never ends."""
        if self.schedule == "multistep" and not self.milestones:
            yield "milestones: invalid value []: must be a list of optimizer steps for the schedule multistep"
        if self.steps and self.warmup >= self.steps:
            yield f"warmup: invalid value {self.warmup}: must be less than steps, {self.steps}"

    def begin(self, learner: Learner, steps: int) -> None:
        """Take over the learning rate of ``learner``."""
        self._steps = self.steps or steps
        if self.warmup >= self._steps:
            raise UserError(f"{self.name}.warmup: invalid value {self.warmup}: must be less than {self._steps} steps")
        if learner.update.warmup is not None:
            raise UserError("learner.warmup: must be 0 beside lr-schedule, which has a warmup of its own")
        scheduler, _ = create_scheduler_v2(
            learner.optimizer,
            sched=self.schedule,
            num_epochs=self._steps,
            warmup_epochs=self.warmup,
            warmup_lr=self.warmup_lr,
            min_lr=self.min_lr,
            decay_rate=self.decay_rate,
            decay_epochs=self.decay_every,
            decay_milestones=self.milestones,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
        self._scheduler = scheduler
        scheduler.step_update(learner.steps)

    def before_training(self, strategy: Learner, **kwargs: Any) -> None:
        """Begin where no run has, as a run that resumes does: after the optimizer was restored."""
        if self._steps is None:
            raise UserError(f"{self.name}.steps: required without a run, which counts the steps of the stream")
        self.begin(strategy, self._steps)

    def after_update(self, strategy: Learner, **kwargs: Any) -> None:
        """The learning rate of the next step."""
        self._scheduler.step_update(strategy.steps)


CALLBACKS: Mapping[str, type[Callback]] = {cls.name: cls for cls in (EarlyStopping, LrSchedule)}


def find_callback(name: str) -> type[Callback]:
    """The callback class of that name, or at ``module:Class``; UserError where there is none."""
    if ":" not in name:
        if name not in CALLBACKS:
            raise UserError(f"unknown callback {name!r}{nearest(name, CALLBACKS)}; or module:Class of your own")
        return CALLBACKS[name]
    try:
        found = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"invalid value {name!r}: must be module:Class of an installed module ({error})") from None
    if not isinstance(found, type) or not issubclass(found, Callback):
        raise UserError(f"invalid value {name!r}: must be a subclass of avcl.training.callbacks.Callback")
    return found
