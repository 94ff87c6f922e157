"""Throughput and peak memory of training."""

from __future__ import annotations

import time

import torch

from avcl.compat import MetricValue, PluginMetric
from avcl.training.learner import Learner

MIB = 2**20


class Throughput(PluginMetric[dict[str, float]]):
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
        self._clips += strategy.num_current

    def after_training_epoch(self, strategy: Learner) -> list[MetricValue]:
        """Show the epoch."""
        if strategy.device.type == "cuda":
            torch.cuda.synchronize(strategy.device)
        self._peak, step = strategy.peak_bytes(), strategy.clock.train_iterations
        return [MetricValue(self, f"train/speed/{name}", value, step) for name, value in self.result().items()]

    def result(self) -> dict[str, float]:
        """Clips per second and peak MiB since the epoch began."""
        seconds = time.perf_counter() - self._start
        return {"clips_per_second": self._clips / seconds, "peak_memory_mib": self._peak / MIB}

    def reset(self) -> None:
        """Start anew."""
        self._clips, self._peak, self._start = 0, 0, time.perf_counter()

    def __str__(self) -> str:
        return "train/speed"
