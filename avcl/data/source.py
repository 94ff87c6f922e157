"""One clip on a disk: what is read of it, and whether it can be used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avcl.data import decode, windows
from avcl.data.bounds import Bounds
from avcl.data.fingerprint import digest
from avcl.errors import BadClip

BEGINNING = 0.5  # seconds in which most clips are heard and move
STATIC = 1.0  # levels of 255 by which pictures differ on average, where nothing but the coding changes


@dataclass(frozen=True)
class Source:
    """A file with its label, its task and its number, which is unique in its scenario.

    What is read of a clip is read through these methods, which raise BadClip; subclasses read from elsewhere.
    ``name``: how lists and reports call the clip, wherever it lies · ``bounds``: what it may cost to read.
    """

    path: str
    label: int
    task: int
    index: int
    name: str = ""
    bounds: Bounds = decode.DEFAULT

    @property
    def files(self) -> tuple[str, ...]:
        """The files whose bytes make the clip."""
        return (self.path,)

    def digest(self) -> str:
        """A text that tells apart clips of different content."""
        return digest(self.files)

    def probe(self, until: float) -> decode.Probe:
        """What its first seconds hold, without decoding."""
        return decode.probe(self.path, until, self.bounds)

    def pictures(self, times: Sequence[float]) -> Tensor:
        """The pictures (T, 3, H, W) uint8 shown at ascending ``times``."""
        return torch.stack(list(self.each_picture(times)))

    def each_picture(self, times: Sequence[float]) -> Iterator[Tensor]:
        """The same, one after the other: of many large ones never all are in memory."""
        return decode.each_frame(self.path, times, self.bounds)

    def sound(self, seconds: float) -> Tensor:
        """Its first ``seconds`` of sound (samples,), float32 at 16 kHz."""
        return decode.sound(self.path, seconds=seconds, bounds=self.bounds)


class Record(NamedTuple):
    """A clip of a scenario or of a store, with the names of where it belongs."""

    split: str
    task: str
    label: str
    source: Source


def inspect(source: Source, window: float, seconds: float) -> decode.Probe:
    """What the first ``seconds`` of a clip hold; raises BadClip unless there is a ``window`` of video and audio."""
    found = source.probe(seconds)
    lengths = {"video": found.video, "audio": found.audio}
    for kind, length in lengths.items():
        if length is None:
            raise decode.bad(source.path, f"no {kind} stream")
    for kind, length in lengths.items():
        require_length(source.path, kind, length or 0.0, window)
    return found


def glance(source: Source, window: float, seconds: float) -> bool:
    """Whether a clip is static; raises BadClip where it cannot be used, as far as that shows quickly.

    Its packets are read, and it is decoded until something is heard and moves: its beginning, of silent and
    static clips all ``seconds``.
    """
    length = min(inspect(source, window, seconds).video or 0.0, seconds)
    try:
        source.sound(min(BEGINNING, seconds))
    except BadClip:  # silent so far
        source.sound(seconds)
    every = [number * BEGINNING for number in range(round(length / BEGINNING))]
    return len(every) > 1 and not any(_move(source.pictures(times)) for times in (every[:2], every))


def require_length(path: str, kind: str, length: float, wanted: float) -> None:
    """Raise BadClip where ``length`` seconds of video or audio are less than are ``wanted``."""
    if windows.room(length, wanted) < 0:
        raise decode.bad(path, f"{length:.1f} s of {kind}, shorter than {wanted:.1f} s")


def _move(pictures: Tensor) -> bool:
    return any((picture.float() - pictures[0]).abs().mean() >= STATIC for picture in pictures[1:])
