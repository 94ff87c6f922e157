"""Trains a head on frozen features: AdamW, linear warm-up and cosine, the best epoch by its score."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn

from avcl.evaluation.protocol import Evaluation
from avcl.settings import Fraction, Moment
from avcl.utils.seeding import generator


@dataclass(kw_only=True)
class HeadEvaluation(Evaluation):
    """Base of evaluations that train a head on a frozen model.

    Args:
        epochs: Passes over the training clips.
        batch_size: Training clips of one step.
        lr: Learning rate after linear warm-up, from which it falls to 0 by a cosine.
        betas: Decay rates of AdamW's first and second moment.
        weight_decay: Weight decay of matrices; vectors have none.
        warmup: Epochs of linear learning-rate warm-up.
        label_smoothing: Share of the target that is spread evenly over all classes.
    """

    epochs: PositiveInt = 15
    batch_size: PositiveInt = 48
    lr: PositiveFloat = 5e-4
    betas: tuple[Moment, Moment] = (0.95, 0.999)
    weight_decay: NonNegativeFloat = 5e-6
    warmup: NonNegativeInt = 2
    label_smoothing: Fraction = 0.0

    name: ClassVar[str] = ""

    def fit(
        self,
        head: nn.Module,
        clips: int,
        loss: Callable[[Tensor, int], Tensor],
        score: Callable[[], float],
        seed: int,
    ) -> list[float]:
        """Train ``head`` in place and leave it as after its best epoch; the score after every epoch.

        ``loss(rows, epoch)``: of the training clips ``rows (b,)`` in that epoch, a scalar · ``score()``: of the head
        as it is, higher is better, asked without gradient and in evaluation mode. The order of clips is a function
        of the seed; a last batch may be smaller. Of equal scores the first is best.
        """
        matrices = [p for p in head.parameters() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in head.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": self.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas)
        steps = -(-clips // self.batch_size)
        rate = CosineLRScheduler(
            optimizer,
            t_initial=max(1, self.epochs * steps),
            warmup_t=min(self.warmup, self.epochs - 1) * steps,
            warmup_lr_init=self.lr / 100,
            t_in_epochs=False,
        )
        order, done = generator(seed, "method"), 0
        history: list[float] = []
        best: dict[str, Any] = {}
        for epoch in range(self.epochs):
            head.train()
            for rows in torch.randperm(clips, generator=order).split(self.batch_size):
                rate.step_update(done)
                optimizer.zero_grad()
                loss(rows, epoch).backward()
                optimizer.step()
                done += 1
            head.eval()
            with torch.no_grad():
                history.append(score())
            if history[-1] > max(history[:-1], default=float("-inf")):
                best = copy.deepcopy(head.state_dict())
        if best:
            head.load_state_dict(best)
        return history


def best_epoch(history: list[float]) -> dict[str, Any]:
    """For the file: the best epoch, counted from 1, and the score after every epoch."""
    return {"best_epoch": 1 + history.index(max(history)), "epochs": history}
