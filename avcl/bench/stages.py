"""The stages of a training step, and what each of them takes: seconds, multiply-adds, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Protocol

from avcl.memory import Memory
from avcl.training.learner import Learner

STAGES = {
    "data": "reading, moving and cutting a batch",
    "scoring": "`prepare` of the strategies: scores, virtual steps, choices",
    "memory": "reading and writing the replay buffer; `observe`, teachers included",
    "forward": "masks, forward pass, penalties",
    "backward": "backward pass",
    "optimizer": "optimizer step",
    "logging": "metrics, loggers, other callbacks",
}

CALLBACKS = [
    f"_{when}_{what}"
    for what in ("training_iteration", "forward", "backward", "update")
    for when in ("before", "after")
]


class Watch(Protocol):
    """Is told of every stretch of a step."""

    def begin(self) -> None:
        """The first stretch begins."""

    def end(self, stage: str) -> None:
        """A stretch, of this stage, ends, and the next one begins."""


class Stages:
    """Follows a learner from stage to stage, in its own loop.

    It wraps methods of this learner, of its strategies and their replay buffers; no class changes.
    """

    def __init__(self, learner: Learner):
        self.learner = learner
        self._open = ["data"]
        self._watch: Watch | None = None
        self._follow("forward", learner, "training_iteration")
        self._follow("backward", learner, "backward")
        self._follow("optimizer", learner, "optimizer_step")
        self._follow("logging", learner, *CALLBACKS)
        for part in learner.strategies:
            self._follow("scoring", part, "prepare")
            self._follow("memory", part, "observe")
        for memory in self.memories():
            self._follow("memory", memory, "add", "sample", "read", "write")

    def memories(self) -> list[Memory]:
        """The replay buffers of the learner's strategies."""
        return [held for part in self.learner.strategies for held in vars(part).values() if isinstance(held, Memory)]

    def start(self, experience: Any) -> None:
        """Train on the first batch of an experience."""
        self._train(1, lambda: self.learner.train(experience))

    def advance(self, batches: int = 1) -> None:
        """Train on so many batches more."""
        self._train(batches, self.learner.training_epoch)

    def _train(self, batches: int, loop: Callable[[], Any]) -> None:
        left = batches

        def pause(learner: Learner) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise _Paused

        self.learner.between_batches = pause
        with suppress(_Paused):
            while left:  # an epoch may end before
                loop()

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Tell ``watch`` of every stretch."""
        self._watch = watch
        watch.begin()
        try:
            yield
            watch.end(self._open[-1])
        finally:
            self._watch = None

    def _follow(self, stage: str, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, self._within(stage, getattr(owner, name)))

    def _within(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def followed(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._open.append(stage)
            try:
                return call(*args, **kwargs)
            finally:
                self._switch()
                self._open.pop()

        return followed

    def _switch(self) -> None:
        if self._watch is not None:
            self._watch.end(self._open[-1])


class Spent:
    """How much a number that only grows, such as the time, grew in each stage."""

    def __init__(self, read: Callable[[], float]):
        self.read = read
        self.by_stage: dict[str, float] = Counter()  # type: ignore[assignment]

    def begin(self) -> None:
        """Note where it stands."""
        self.last = self.read()

    def end(self, stage: str) -> None:
        """Add what it grew by."""
        now = self.read()
        self.by_stage[stage] += now - self.last
        self.last = now

    @property
    def total(self) -> float:
        """Over all stages."""
        return sum(self.by_stage.values())


class _Paused(Exception):
    """Enough batches; the learner stays where it is."""
