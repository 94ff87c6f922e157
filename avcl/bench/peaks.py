"""Peak memory of a training step by stage: of tensors, as the allocator counts them, on a GPU and on a CPU alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler import profile


class OnDevice:
    """Peak bytes of a CUDA device in each stage, beyond what is taken when this is made."""

    def __init__(self, device: torch.device):
        self.device, self.before = device, torch.cuda.memory_allocated(device)
        self.by_stage: dict[str, int] = Counter()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The allocator keeps an account anyway."""
        yield

    def begin(self) -> None:
        """Set the peak back."""
        torch.cuda.reset_peak_memory_stats(self.device)

    def end(self, stage: str) -> None:
        """Note the peak, and set it back."""
        peak = torch.cuda.max_memory_allocated(self.device) - self.before
        self.by_stage[stage] = max(self.by_stage[stage], peak)
        self.begin()


class OnHost:
    """The same of the CPU, whose allocator keeps no account: the profiler lists what it allocates and frees.

    What libraries take for themselves, numpy's arrays and the allocator's own waste are not in it.
    """

    def __init__(self) -> None:
        self.by_stage: dict[str, int] = Counter()
        self._times: list[tuple[int, str]] = []  # of a stretch's end; of the first one's beginning

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let the profiler listen; afterwards the peaks of all stretches are known."""
        with profile(profile_memory=True) as listening:
            yield
        told = listening.kineto_results.events()
        changes = [(event.start_ns(), event.nbytes()) for event in told if event.name() == "[memory]"]
        self._add_up(sorted(changes, key=lambda change: change[0]))

    def begin(self) -> None:
        """Note the time."""
        self._times.append((time.time_ns(), ""))

    def end(self, stage: str) -> None:
        """Note the time."""
        self._times.append((time.time_ns(), stage))

    def _add_up(self, changes: list[tuple[int, int]]) -> None:
        level, left = 0, iter(self._times)
        begun, stretch = False, next(left, None)
        for moment, change in changes:
            while stretch is not None and stretch[0] <= moment:
                begun, stretch = True, next(left, None)
                self._raise(stretch, level)
            level += change
            if begun:
                self._raise(stretch, level)

    def _raise(self, stretch: tuple[int, str] | None, level: int) -> None:
        if stretch is not None:
            self.by_stage[stretch[1]] = max(self.by_stage[stretch[1]], level)
