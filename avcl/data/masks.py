"""Masks of what sounds, beside the frames of clips: read by the code that reads the frames, crops included."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avcl.data import decode, transforms
from avcl.data.dataset import Files
from avcl.data.extracted import decode_picture
from avcl.data.source import Source


@dataclass(frozen=True)
class Masked:
    """The truth about a clip as it was read.

    ``mask (T, H, W)`` bool: pixels of what sounds · ``interval``: first mel frame of the sound and the first after
    it · ``labelled (T,)`` bool: frames that have a mask; of the others ``mask`` is empty.
    """

    mask: Tensor
    interval: tuple[int, int]
    labelled: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskPictures(Source):
    """The masks of ``clip`` as a clip: pictures whose red is the mask, and whose green says whether there is one.

    The last ``*`` of ``path`` stands for 1, 2, ..., ``rate`` a second.
    """

    clip: Source
    rate: float = 1.0

    @classmethod
    def of(cls, clip: Source, path: str, rate: float = 1.0) -> MaskPictures:
        """The masks at ``path`` of a clip, with its number, so that chance crops both alike."""
        return cls(path, clip.label, clip.task, clip.index, clip.name, clip.bounds, clip=clip, rate=rate)

    def probe(self, until: float) -> decode.Probe:
        """As long as the clip."""
        return self.clip.probe(until)

    def each_picture(self, times: Sequence[float]) -> Iterator[Tensor]:
        """The masks shown at ``times``; of a time that has none nothing. BadClip where no time has one."""
        numbers = [int((time + decode.ROUNDING) * self.rate) + 1 for time in times]
        found = {n: self._mask(n) for n in set(numbers) if os.path.exists(self._path(n))}
        if not found:
            raise decode.bad(self._path(numbers[0]), "no such mask")
        sizes = {mask.shape for mask in found.values()}
        if len(sizes) > 1:
            raise decode.bad(self.path, "masks of different sizes")
        pictures = torch.zeros(len(times), 3, *sizes.pop(), dtype=torch.uint8)
        for place, number in enumerate(numbers):
            if number in found:
                pictures[place, 0], pictures[place, 1] = found[number], 255
        return iter(pictures)

    def sound(self, seconds: float) -> Tensor:
        """Silence: whoever reads masks listens to the clip itself."""
        return torch.zeros(round(seconds * decode.RATE))

    def _path(self, number: int) -> str:
        before, _, after = self.path.rpartition("*")
        return f"{before}{number}{after}"

    def _mask(self, number: int) -> Tensor:
        """A mask (H, W) uint8, 0 or 255: as AVSBench reads it, what is brighter than the middle."""
        path = self._path(number)
        return 255 * (decode_picture(path, path, self.bounds, "L") > 127).to(torch.uint8)


class MaskedFiles(Files):
    """Clips of ``files``, and the ``masks`` of each as the truth about it."""

    def __init__(self, files: Files, masks: Sequence[MaskPictures]):
        vars(self).update(vars(files))
        self._masks = copy.copy(files)
        self._masks.sources = list(masks)

    def truth(self, number: int) -> Masked:
        """The truth about clip ``number``; within ``augmenting`` as the same augmentation crops its frames."""
        item = self._masks[number]
        mean, deviation = transforms.MEAN, transforms.DEVIATION
        red, green = (item["frames"][:, k] * deviation[k] + mean[k] > 0.5 for k in (0, 1))
        labelled = green.flatten(1).all(1)
        return Masked(red, (0, item["mel"].shape[1]), labelled)
