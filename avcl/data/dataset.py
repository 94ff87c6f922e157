"""Datasets of media files: from a list of sources to the samples that a learner reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from avcl.clip import Shape
from avcl.data import decode, log_mel, transforms, windows
from avcl.data.fingerprint import digest
from avcl.errors import BadClip
from avcl.scenario import augmentation

BEGINNING = 0.5  # seconds in which most clips are heard and move
STILL = 1.0  # levels of 255 by which pictures differ on average, where nothing but the coding changes


@dataclass(frozen=True)
class Source:
    """A file with its label, its task and its number, which is unique in its scenario.

    What is read of a clip is read through these methods, which raise BadClip; subclasses read from elsewhere.
    ``name``: how lists and reports call the clip, wherever it lies.
    """

    path: str
    label: int
    task: int
    index: int
    name: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files whose bytes make the clip."""
        return (self.path,)

    def digest(self) -> str:
        """A text that tells apart clips of different content."""
        return digest(self.files)

    def probe(self, until: float) -> decode.Probe:
        """What its first seconds hold, without decoding."""
        return decode.probe(self.path, until)

    def pictures(self, times: Sequence[float]) -> Tensor:
        """The pictures (T, 3, H, W) uint8 shown at ascending ``times``."""
        return decode.frames(self.path, times)

    def sound(self, seconds: float) -> Tensor:
        """Its first ``seconds`` of sound (samples,), float32 at 16 kHz."""
        return decode.sound(self.path, seconds=seconds)


def inspect(source: Source, window: float, seconds: float) -> decode.Probe:
    """What the first ``seconds`` of a clip hold; raises BadClip unless there is a ``window`` of video and audio."""
    found = source.probe(seconds)
    lengths = {"video": found.video, "audio": found.audio}
    for kind, length in lengths.items():
        if length is None:
            raise decode.bad(source.path, f"no {kind} stream")
    for kind, length in lengths.items():
        _require(source.path, kind, length or 0.0, window)
    return found


def glance(source: Source, window: float, seconds: float) -> bool:
    """Whether nothing moves in a clip; raises BadClip where it cannot be used, as far as that shows quickly.

    Its packets are read, and it is decoded until something is heard and moves: its beginning, of mute and
    still clips all ``seconds``.
    """
    length = min(inspect(source, window, seconds).video or 0.0, seconds)
    try:
        source.sound(min(BEGINNING, seconds))
    except BadClip:  # silent so far
        source.sound(seconds)
    every = [number * BEGINNING for number in range(round(length / BEGINNING))]
    return len(every) > 1 and not any(_move(source.pictures(times)) for times in (every[:2], every))


def _move(pictures: Tensor) -> bool:
    return any((picture.float() - pictures[0]).abs().mean() >= STILL for picture in pictures[1:])


def _require(path: str, kind: str, length: float, wanted: float) -> None:
    if windows.room(length, wanted) < 0:
        raise decode.bad(path, f"{length:.1f} s of {kind}, shorter than {wanted:.1f} s")


class Files(Dataset):
    """Samples read from media files: the transforms of the paper, in training those with chance.

    ``shape``: of a sample · ``window``: seconds over which its frames are spread · ``seconds``: how much of a
    file is used, from its start; the sound is always the first ``seconds``, or as much of it as fits.
    """

    def __init__(self, sources: Sequence[Source], shape: Shape, window: float = 4.0, seconds: float = 10.0):
        self.sources, self.shape, self.window, self.seconds = list(sources), shape, window, seconds

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One sample; raises BadClip where the file cannot be used."""
        source = self.sources[number]
        chance = augmentation(source.index)
        _, height, width, times, mels = self.shape
        pictures, wave = self.decoded(source, chance)
        pictures = transforms.shrink(pictures, *transforms.store_size(height, width))
        mel = log_mel.spectrogram(wave, times, mels)
        if chance is None:
            pictures = transforms.resize(pictures, height, width)
        else:
            pictures = transforms.multi_scale_crop(pictures, height, width, chance)
            mel = log_mel.noise_and_roll(mel, chance)
        return {
            "frames": transforms.normalise(pictures),
            "mel": mel,
            "index": source.index,
            "label": source.label,
            "task": source.task,
        }

    def decoded(self, source: Source, chance: Generator | None = None) -> tuple[Tensor, Tensor]:
        """The pictures (T, 3, H, W) uint8 and the sound (samples,) of one window, by ``chance`` or in the middle."""
        found = inspect(source, self.window, self.seconds)
        length = min(found.video or 0.0, self.seconds)
        if chance is None:
            start = windows.middle_start(length, self.window)
        else:
            start = windows.random_start(length, self.window, chance)
        pictures = source.pictures(windows.frame_times(start, self.window, self.shape.frames))
        heard = min(self.seconds, self.shape.times * log_mel.HOP)
        wave = source.sound(heard)
        _require(source.path, "audio", len(wave) / decode.RATE, min(self.window, heard))  # a header can be wrong
        return pictures, wave
