"""A loss that is not finite: the error that ends a run, and what is known of the terms and clips that made it so."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from avcl.errors import UserError

if TYPE_CHECKING:
    from avcl.training.learner import Learner


class Diverged(UserError):
    """A step's loss is NaN or infinite. ``found`` says which terms are, and of which clips, as JSON can hold it."""

    def __init__(self, message: str, found: dict[str, Any]):
        super().__init__(message)
        self.found = found


def diverged(learner: Learner) -> Diverged:
    """The error about the learner's present step.

    Clips are listed where one of their own loss terms or their own input is not finite; all of the batch where there
    are none, as after a penalty of the whole batch, or when the weights are lost already.
    """
    values = ", ".join(f"{key} {float(loss.detach()):g}" for key, loss in learner.losses.items())
    rows = list(_rows(learner))
    own = [row for row in rows if not row["input_is_finite"]] or [row for row in rows if _lost(row["terms"])]
    weights = all(bool(torch.isfinite(parameter).all()) for parameter in learner.parameters())
    found = {
        "step": learner.steps,
        "losses": {key: _said(loss) for key, loss in learner.losses.items()},
        "weights_are_finite": weights,
        "clips": own or rows,
    }
    told = "" if weights else "; so are weights"
    lower = "lower learner.lr or set learner.clip_norm"
    return Diverged(f"step {learner.steps}: the loss is not finite ({values}){told}; {lower}", found)


def _rows(learner: Learner) -> Any:
    """Every clip of the batch: its number, whether it was replayed, and its terms."""
    batch, terms = learner.batch, learner.output.terms
    numbers = learner.loading.numbers(batch.index) if batch.index is not None else [None] * len(batch)
    finite = (batch.video.isfinite().flatten(1).all(1) & batch.audio.isfinite().flatten(1).all(1)).tolist()
    for row, number in enumerate(numbers):
        yield {
            "clip": number,
            "replayed": row >= learner.num_current,
            "input_is_finite": finite[row],
            "terms": {key: _said(term[row]) for key, term in terms.items()},
        }


def _said(value: Tensor) -> float | str:
    """A number, as JSON can hold it."""
    number = float(value.detach())
    return number if math.isfinite(number) else str(number)


def _lost(terms: dict[str, float | str]) -> bool:
    return any(isinstance(value, str) for value in terms.values())
