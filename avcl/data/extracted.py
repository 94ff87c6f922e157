"""Clips that were taken apart before: a folder of numbered pictures and a file of sound."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from avcl.data import decode
from avcl.data.bounds import Bounds
from avcl.data.source import Source
from avcl.faults import of_machine

PICTURES = ("JPEG", "PNG", "WEBP", "BMP")  # others run programs, or hold many pictures


@dataclass(frozen=True)
class Extracted(Source):
    """Pictures at ``path``, ``rate`` a second, and the sound in ``audio``.

    The last ``*`` of ``path`` stands for ``first`` and the numbers that follow it.
    """

    audio: str = ""
    rate: float = 1.0
    first: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        """The sound and the pictures, as many as follow each other."""
        return (self.audio, *map(self._picture, range(self._count())))

    @property
    def there(self) -> bool:
        """Whether the sound and a first picture exist."""
        return os.path.exists(self.audio) and os.path.exists(self._picture(0))

    def probe(self, until: float) -> decode.Probe:
        """How long the pictures last at their rate, and the sound by its packets."""
        sound = decode.probe(self.audio, until, self.bounds)
        return decode.Probe(
            video=self._count() / self.rate or None,
            audio=sound.audio,
            fps=self.rate,
            rate=sound.rate,
            channels=sound.channels,
        )

    def each_picture(self, times: Sequence[float]) -> Iterator[Tensor]:
        """The last picture that begins at or before each of ``times``."""
        paths = [self._picture(int((time + decode.ROUNDING) * self.rate)) for time in times]
        return decode.alike(self.path, (decode_picture(path, path, self.bounds) for path in paths))

    def sound(self, seconds: float) -> Tensor:
        """The first ``seconds`` of the sound file."""
        return decode.sound(self.audio, seconds=seconds, bounds=self.bounds)

    def _picture(self, number: int) -> str:
        before, _, after = self.path.rpartition("*")
        return f"{before}{self.first + number}{after}"

    def _count(self) -> int:
        """How many pictures follow each other, found in a few looks."""
        low, high = 0, 1
        while os.path.exists(self._picture(high - 1)):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if os.path.exists(self._picture(middle - 1)) else (low, middle)
        return low


def decode_picture(file: str | BinaryIO, name: str, bounds: Bounds, mode: str = "RGB") -> Tensor:
    """A picture (3, H, W) uint8, of mode L (H, W), from a path or an open file; BadClip calls it ``name``."""
    try:
        if isinstance(file, str):
            bounds.check_file(file)
        with Image.open(file, formats=PICTURES) as picture:
            bounds.check_picture(name, *picture.size)
            read = torch.from_numpy(np.array(picture.convert(mode)))
            return read.permute(2, 0, 1) if read.ndim == 3 else read
    except FileNotFoundError:
        raise decode.bad(name, "no such picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise decode.bad(name, f"more than {bounds.pixels:,} pixels") from None
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: Pillow, at a broken PNG
        if of_machine(error):
            raise
        raise decode.bad(name, "corrupt picture") from None
