"""What a patch-selecting method says of clips: how important each patch is, which were pruned, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Choice:
    """One modality's patches of B whole clips.

    ``importance (B, L)``: scores, of which larger is better; not negative · ``kept (B, K)``: positions of the patches
    to train on · ``correlation (B, L)``: with the past, in [0, 1], where a method knows it · ``pruned (B, L)`` bool:
    patches that were ruled out before the choice, where a method does that.
    """

    importance: Tensor
    kept: Tensor
    correlation: Tensor | None = None
    pruned: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> Choice:
        return Choice(*(None if value is None else value[rows] for value in vars(self).values()))  # type: ignore[arg-type]

    @classmethod
    def blind(cls, kept: Tensor, patches: int) -> Choice:
        """Of a method for which all ``patches`` are worth the same; it keeps ``kept (B, K)``."""
        return cls(torch.full((len(kept), patches), 1 / patches, device=kept.device), kept)


class Selection(NamedTuple):
    """What a method makes of whole clips, by modality."""

    video: Choice
    audio: Choice
