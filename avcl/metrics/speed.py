"""How fast training runs and how much memory it takes."""

from __future__ import annotations

import resource
import time

import torch

from avcl.compat import MetricValue, PluginMetric
from avcl.learner import Learner

MIB = 2**20


class Speed(PluginMetric[dict[str, float]]):
    """Current clips per second and peak memory, once an epoch; evaluation does not count.

    Tags: ``train/speed/clips_per_second``, ``train/speed/peak_memory_mib`` (of the device's allocator on a
    GPU, resident size of the process elsewhere).
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def before_training_epoch(self, strategy: Learner) -> None:
        """Start the clock."""
        self.reset()

    def after_training_iteration(self, strategy: Learner) -> None:
        """Count the current clips; replayed ones are not new."""
        self._clips += strategy.fresh
        self._device = strategy.device

    def after_training_epoch(self, strategy: Learner) -> list[MetricValue]:
        """Show the epoch."""
        step = strategy.clock.train_iterations
        return [MetricValue(self, f"train/speed/{name}", value, step) for name, value in self.result().items()]

    def result(self) -> dict[str, float]:
        """Clips per second and peak MiB since the epoch began."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = time.perf_counter() - self._start
        return {"clips_per_second": self._clips / seconds, "peak_memory_mib": peak / MIB}

    def reset(self) -> None:
        """Start anew."""
        self._clips, self._start, self._device = 0, time.perf_counter(), torch.device("cpu")

    def __str__(self) -> str:
        return "train/speed"
