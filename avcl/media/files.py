"""Datasets of media files: from a list of sources to the samples that a learner reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from avcl.clip import Shape
from avcl.media import decode, logmel, transforms, windows
from avcl.streams import augmentation


@dataclass(frozen=True, slots=True)
class Source:
    """A file with its label, its task and its number, which is unique in its scenario."""

    path: str
    label: int
    task: int
    index: int


def inspect(path: str, window: float, seconds: float) -> decode.Probe:
    """What the first ``seconds`` of a file hold; raises BadClip unless there is a ``window`` of video and audio."""
    found = decode.probe(path, until=seconds)
    for kind, length in (("video", found.video), ("audio", found.audio)):
        if length is None:
            raise decode.bad(path, f"no {kind} stream")
        _require(path, kind, length, window)
    return found


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
        path, chance = source.path, augmentation(source.index)
        frames, height, width, times, mels = self.shape
        found = inspect(path, self.window, self.seconds)
        length = min(found.video or 0.0, self.seconds)
        if chance is None:
            start = windows.middle_start(length, self.window)
        else:
            start = windows.random_start(length, self.window, chance)
        pictures = decode.frames(path, windows.frame_times(start, self.window, frames))
        pictures = transforms.shrink(pictures, *transforms.store_size(height, width))
        heard = min(self.seconds, times * logmel.HOP)
        wave = decode.sound(path, seconds=heard)
        _require(path, "audio", len(wave) / decode.RATE, min(self.window, heard))  # a header can be wrong
        mel = logmel.log_mel(wave, times, mels)
        if chance is None:
            pictures = transforms.resize(pictures, height, width)
        else:
            pictures = transforms.multi_scale_crop(pictures, height, width, chance)
            mel = logmel.noise_and_roll(mel, chance)
        return {
            "frames": transforms.normalise(pictures),
            "mel": mel,
            "index": source.index,
            "label": source.label,
            "task": source.task,
        }
