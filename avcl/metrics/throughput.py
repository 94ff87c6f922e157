"""Throughput and peak memory of training."""

from __future__ import annotations

import time
from typing import Any

import torch

from avcl.compat import MetricValue, PluginMetric
from avcl.training.learner import Learner
from avcl.utils import distributed

MIB = 2**20


class Throughput(PluginMetric[dict[str, float]]):
    """Current clips per second and peak memory, once an epoch; evaluation does not count.

    Clips are those of all processes, memory is that of the one that takes most.
    Tags: ``train/speed/clips_per_second``, ``train/speed/peak_memory_mib`` (of the device's allocator on a
    GPU, resident size of the process elsewhere). Both over all epochs since the process began are ``measured``, which a
    run writes into ``efficiency.json``: apart from results, which are the same every time.
    """

    _clips: int

    def __init__(self) -> None:
        super().__init__()
        self._all_clips, self._all_seconds, self._device = 0, 0.0, ""
        self.reset()

    def before_training_epoch(self, strategy: Learner) -> None:
        """Start the clock."""
        self.reset()

    def after_training_iteration(self, strategy: Learner) -> None:
        """Count the current clips; replayed ones are not new."""
        self._clips += strategy.num_current

    def before_eval(self, strategy: Learner) -> None:
        """Stop the clock."""
        self._stopped = time.perf_counter()

    def after_eval(self, strategy: Learner) -> None:
        """Let it go on."""
        self._start += time.perf_counter() - self._stopped

    def after_training_epoch(self, strategy: Learner) -> list[MetricValue]:
        """Show the epoch."""
        if strategy.device.type == "cuda":
            torch.cuda.synchronize(strategy.device)
        clips, peaks = distributed.table([self._clips, strategy.peak_bytes()]).T.tolist()
        self._clips, self._peak = sum(clips), max(peaks)
        step = strategy.clock.train_iterations
        found = self.result()
        self._device = str(strategy.device)
        self._all_clips += self._clips
        self._all_seconds += self._clips / found["clips_per_second"] if self._clips else 0.0
        return [MetricValue(self, f"train/speed/{name}", value, step) for name, value in found.items()]

    def result(self) -> dict[str, float]:
        """Clips per second and peak MiB since the epoch began."""
        seconds = time.perf_counter() - self._start
        return {"clips_per_second": self._clips / seconds, "peak_memory_mib": self._peak / MIB}

    def measured(self) -> dict[str, Any]:
        """What differs from run to run and machine to machine, over all epochs of this process; empty before one."""
        if not self._all_seconds:
            return {}
        return {
            "device": self._device,
            "clips": self._all_clips,
            "training_seconds": self._all_seconds,
            "clips_per_second": self._all_clips / self._all_seconds,
            "peak_memory_mib": self._peak / MIB,
        }

    def reset(self) -> None:
        """Start anew."""
        self._clips, self._start = 0, time.perf_counter()
        self._peak = getattr(self, "_peak", 0)

    def __str__(self) -> str:
        return "train/speed"
