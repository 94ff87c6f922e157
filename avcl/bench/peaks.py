"""Peak memory of a training step by stage: of tensors, as the allocator counts them, on a GPU and on a CPU alike."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.profiler import profile, record_function

ALLOCATION = "[memory]"  # what the profiler calls what is allocated, or, of negative size, freed
MARK = "avcl.bench/"


class OnDevice:
    """Peak bytes of a CUDA device in each stage, beyond what is taken when this is made."""

    def __init__(self, device: torch.device):
        gc.collect()  # so that nothing from before is freed later
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

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let the profiler listen; afterwards the peaks of all stretches are known."""
        gc.collect()  # so that nothing from before is freed now
        with profile(profile_memory=True) as listening:
            yield
        told = listening.kineto_results.events()
        self._add_up(sorted(told, key=lambda event: event.start_ns()))

    def begin(self) -> None:
        """Put a mark into the list."""
        self.end("")

    def end(self, stage: str) -> None:
        """Put a mark into the list."""
        with record_function(MARK + stage):
            pass

    def _add_up(self, events: list[Any]) -> None:
        level = peak = 0
        for event in events:
            if event.name() == ALLOCATION:
                level += event.nbytes()
                peak = max(peak, level)
            elif event.name().startswith(MARK):
                stage = event.name().removeprefix(MARK)
                if stage:
                    self.by_stage[stage] = max(self.by_stage[stage], peak)
                peak = level
