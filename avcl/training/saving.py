"""When a run saves its whole state within a task."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveFloat, PositiveInt

from avcl.settings import Component


@dataclass(kw_only=True)
class Saving(Component):
    """Checkpoints within tasks; after every task there is one anyway.

    Args:
        every_steps: Optimizer steps between checkpoints within a task; null for none by steps.
        every_minutes: Minutes between checkpoints within a task; null for none by time.
        keep: How many of the last checkpoints are kept, so that there is one before a damaged one.
    """

    name: ClassVar[str] = "checkpoint"

    every_steps: PositiveInt | None = None
    every_minutes: PositiveFloat | None = 10.0
    keep: PositiveInt = 2

    def start(self, steps: int) -> None:
        """A checkpoint was written, or training begins, after so many steps."""
        self._steps, self._time = steps, time.monotonic()

    def due(self, steps: int) -> bool:
        """Whether it is time for another one."""
        by_steps = self.every_steps is not None and steps - self._steps >= self.every_steps
        return by_steps or (self.every_minutes is not None and time.monotonic() - self._time >= 60 * self.every_minutes)
