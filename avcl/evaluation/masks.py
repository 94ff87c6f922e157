"""Masks of what sounds for evaluations that need them, and what knows nothing but where such masks usually are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from avcl.clip import Clip
from avcl.errors import BadClip, UserError
from avcl.evaluation.features import read
from avcl.evaluation.protocol import Frozen
from avcl.scenario import augmenting, truth_of


class Truths(NamedTuple):
    """Masks of some clips, ``mask (B, T, H, W)`` bool, and which frames have one, ``labelled (B, T)`` bool."""

    mask: Tensor
    labelled: Tensor


def masks_of(clips: Any, numbers: Sequence[int], seed: int = 0, epoch: int | None = None) -> Truths:
    """The masks of clips ``numbers`` as their frames are read: for evaluation, or augmented as in a training epoch.

    ValueError where the dataset does not know them; UserError where those of a clip cannot be read.
    """
    if (truth := truth_of(clips)) is None:
        raise ValueError("the dataset has no truth(i)")
    draw = contextlib.nullcontext() if epoch is None else augmenting(seed, epoch)
    with draw:
        try:
            found = [truth(int(number)) for number in numbers]
        except BadClip as bad:
            raise UserError(str(bad)) from None
    masks = [one.mask.bool() for one in found]
    labelled = [
        getattr(one, "labelled", torch.ones(len(mask), dtype=torch.bool))
        for one, mask in zip(found, masks, strict=True)
    ]
    return Truths(torch.stack(masks), torch.stack(labelled))


@dataclass
class Part(Dataset):
    """Clips with some of their frames: ``count`` from ``first`` on, for a backbone that takes no more."""

    clips: Any
    first: int
    count: int

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict[str, Any]:
        item = self.clips[number]
        return {**item, "frames": item["frames"][self.first : self.first + self.count]}


def parts(frames: int, most: int) -> Iterator[tuple[int, int]]:
    """How ``frames`` are shown to a backbone that takes ``most`` at a time: (first, how many of them are new) each.

    The last part ends with the last frame, and overlaps the one before where the number does not come out even.
    """
    shown = 0
    while shown < frames:
        first = min(shown, max(0, frames - most))
        yield first, first + min(most, frames) - shown
        shown = first + min(most, frames)


@torch.no_grad()
def by_frame(
    model: Frozen, clips: Any, numbers: Sequence[int], look: Callable[[Clip], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """``look(clip) -> (B, T, ...)`` of every frame of clips ``numbers``: (number, (T, ...)), on the CPU.

    Clips of more frames than the backbone takes are shown in parts, of one batch at a time.
    """
    if not numbers:
        return
    shown = list(parts(len(clips[numbers[0]]["frames"]), model.backbone.grid.frames))
    readers = [read(model, Part(clips, first, model.backbone.grid.frames), numbers=numbers) for first, _ in shown]
    for batches in zip(*readers, strict=True):  # what cannot be used is left out of every part
        looked = [look(clip)[:, -new:].cpu() for (_, clip), (_, new) in zip(batches, shown, strict=True)]
        yield from zip(batches[0][0].tolist(), torch.cat(looked, 1), strict=True)


Shape = Callable[[int, int, float], Tensor]


def centre_box(height: int, width: int, size: float) -> Tensor:
    """A box (H, W) bool in the middle of the frame, of this share of its height and of its width."""
    y, x = _from_centre(height, width)
    return (y.abs() <= size * height / 2) & (x.abs() <= size * width / 2)


def centre_disc(height: int, width: int, size: float) -> Tensor:
    """A disc (H, W) bool in the middle of the frame, whose diameter is this share of the frame's diagonal."""
    y, x = _from_centre(height, width)
    return y**2 + x**2 <= (size / 2) ** 2 * (height**2 + width**2)


def _from_centre(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2
    return y[:, None], x[None]


class Centre:
    """The best centred box or disc: the size that has the largest mean IoU with the training masks, of 40 sizes."""

    SIZES = tuple(step / 40 for step in range(1, 41))

    def __init__(self, shape: Shape, height: int, width: int):
        self.candidates = torch.stack([shape(height, width, size) for size in self.SIZES])
        self.ious = torch.zeros(len(self.SIZES), dtype=torch.float64)

    def add(self, mask: Tensor) -> None:
        """Learn from masks (N, H, W) bool."""
        frames, candidates = mask.flatten(1).float(), self.candidates.flatten(1).float()
        inside = frames @ candidates.T
        around = frames.sum(1, keepdim=True) + candidates.sum(1) - inside
        self.ious += (inside / around.clamp(min=1)).double().sum(0)

    @property
    def size(self) -> float:
        """The best size, a share; of equal ones the smaller."""
        return self.SIZES[int(self.ious.argmax())]

    @property
    def mask(self) -> Tensor:
        """The best mask (H, W), bool."""
        return self.candidates[int(self.ious.argmax())]
