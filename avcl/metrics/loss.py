"""The loss, term by term: what is plotted is what is differentiated."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from avcl.compat import MetricValue, PluginMetric
from avcl.registry import blamed
from avcl.training.learner import Learner
from avcl.utils import distributed


class LossTerms(PluginMetric[dict[str, float]]):
    """Means of every named loss over the last ``every`` batches, and the strategies' diagnostics.

    Several processes show their mean.

    Tags: ``train/loss/<term>``, ``train/loss/total``, ``train/<strategy>/<name>``. Sums stay on the device
    until they are shown, so that measuring does not wait for it.

    Args:
        every: Batches over which a mean is taken.
    """

    def __init__(self, *, every: PositiveInt = 10):
        super().__init__()
        self.every = every
        self.reset()

    def after_training_iteration(self, strategy: Learner) -> list[MetricValue] | None:
        """Add this batch; show the means when it is time."""
        for key, loss in {**strategy.losses, "total": strategy.loss}.items():
            total, count = self._sums.get(key, (0.0, 0))
            self._sums[key] = (total + loss.detach(), count + 1)
        if (strategy.clock.train_iterations + 1) % self.every:
            return None
        return self._show(strategy, strategy.clock.train_iterations + 1)

    def after_training_epoch(self, strategy: Learner) -> list[MetricValue] | None:
        """Show what is left of the epoch."""
        return self._show(strategy, strategy.clock.train_iterations) if self._sums else None

    def _show(self, learner: Learner, step: int) -> list[MetricValue]:
        values = {f"train/loss/{key}": value for key, value in self.result().items()}
        for part in learner.strategies:
            with blamed(part, "log"):
                told = distributed.average({key: torch.as_tensor(value) for key, value in part.log().items()})
            values |= {f"train/{part.name}/{key}": float(value) for key, value in told.items()}
        self.reset()
        return [MetricValue(self, name, value, step) for name, value in values.items()]

    def result(self) -> dict[str, float]:
        """The means so far, by term."""
        return {key: float(total) / count for key, (total, count) in self._sums.items()}

    def reset(self) -> None:
        """Forget the batches so far."""
        self._sums: dict[str, tuple[Tensor | float, int]] = {}

    def __str__(self) -> str:
        return "train/loss"
