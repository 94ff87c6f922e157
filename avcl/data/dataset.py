"""The dataset of media files: from a list of sources to the samples that a learner reads."""

from collections.abc import Sequence
from typing import Any

from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from avcl.clip import Shape
from avcl.data import decode, log_mel, transforms, windows
from avcl.data.source import Source, inspect, require_length
from avcl.scenario import augmentation, window


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
        """Pictures (T, 3, H, W) uint8 and sound (samples,) of a window: by ``chance``, as asked for, or the middle."""
        found = inspect(source, self.window, self.seconds)
        length = min(found.video or 0.0, self.seconds)
        if chance is not None:
            start = windows.random_start(length, self.window, chance)
        elif place := window():
            start = windows.spread_start(length, self.window, *place)
        else:
            start = windows.middle_start(length, self.window)
        pictures = source.pictures(windows.frame_times(start, self.window, self.shape.frames))
        heard = min(self.seconds, self.shape.times * log_mel.HOP)
        wave = source.sound(heard)
        require_length(source.path, "audio", len(wave) / decode.RATE, min(self.window, heard))  # a header can be wrong
        return pictures, wave
