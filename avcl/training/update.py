"""The update: loss scaling, gradient accumulation, averaging over processes, clipping, the optimizer, warm-up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR

from avcl.training.reduction import Reduction
from avcl.utils import distributed


class Update:
    """From a loss to new weights, with one optimizer over the whole stream.

    ``steps`` counts optimizer steps, ``pending`` the batches whose gradients wait for the next one.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        optimizer: Optimizer,
        *,
        accumulate: int = 1,
        warmup: int = 0,
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.parameters, self.optimizer = list(parameters), optimizer
        self.accumulate, self.clip_norm = accumulate, clip_norm
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.warmup = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup) if warmup else None
        self.reduction = Reduction(self.parameters) if distributed.world_size() > 1 else None
        self.steps = self.pending = 0

    @property
    def due(self) -> bool:
        """Whether the gradients of enough batches are there for a step."""
        return self.pending == self.accumulate

    def prepare(self) -> None:
        """Zero the gradients, unless those of earlier batches wait for a step."""
        if not self.pending:
            self.optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one batch's mean loss, scaled in fp16, as its share of the accumulated batches."""
        if self.reduction is not None and self.pending + 1 == self.accumulate:
            self.reduction.listen()
        self.scaler.scale(loss / self.accumulate).backward()
        self.pending += 1

    def step(self) -> None:
        """Average gradients over processes, clip them, take the optimizer's step and one of the warm-up."""
        if self.reduction is not None:
            self.reduction.finish()
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.warmup is not None:
            self.warmup.step()
        self.steps, self.pending = self.steps + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, warm-up, loss scale, and the gradients that wait for a step."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "warmup": None if self.warmup is None else self.warmup.state_dict(),
            "scaler": self.scaler.state_dict(),
            "gradients": self.gradients(),
            "steps": self.steps,
            "pending": self.pending,
        }

    def gradients(self) -> list[Tensor | None]:
        """The gradients that wait, which every process has for itself."""
        return [parameter.grad for parameter in self.parameters] if self.pending else []

    def load_state_dict(self, state: Mapping[str, Any], others: Sequence[list[Tensor | None]] = ()) -> None:
        """Go on from ``state``, saved with the ``others`` of more processes.

        Where these were as many as now, each has its own gradients again, else all have their mean: with those that
        are still to come they make the same step.
        """
        self.optimizer.load_state_dict(state["optimizer"])
        if self.warmup is not None:
            self.warmup.load_state_dict(state["warmup"])
        self.scaler.load_state_dict(state["scaler"])
        saved = [state["gradients"], *others]
        if len(saved) == distributed.world_size():
            waiting = saved[distributed.rank()]
        else:
            waiting = [_mean(gradients) for gradients in zip(*saved, strict=True)]
        if waiting:
            for parameter, gradient in zip(self.parameters, waiting, strict=True):
                parameter.grad = gradient
        self.steps, self.pending = state["steps"], state["pending"]


def _mean(gradients: Sequence[Tensor | None]) -> Tensor | None:
    """The mean over processes; None counts as zero, unless all are."""
    there = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(there).sum(0) / len(gradients) if there else None
