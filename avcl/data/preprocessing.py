"""How a recording becomes the tensors that a backbone is trained on; weights carry it along."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.random import Generator
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from avcl.clip import Shape
from avcl.data import decode, log_mel, transforms, windows
from avcl.data.source import Source, require_length
from avcl.settings import Component
from avcl.utils.console import counted

RECORDING = ("window", "seconds", "sample_rate", "hop", "span")
"""What says nothing about clips that were rendered."""

INSTANT = 0.04
"""Seconds of a window for one frame: it is then the one in the middle, as CAV-MAE's authors evaluate."""

Channels = tuple[float, float, float]


@dataclass(kw_only=True)
class Preprocessing(Component):
    """The preprocessing of one scenario's clips: a dataset of files makes its items by it, and so does an embedder.

    Args:
        rendered: Whether the clips were rendered as tensors: no recording has such a log-mel spectrogram.
        frames: Frames of a clip, evenly spread over the window.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        times: Time steps of the log-mel spectrogram.
        mels: Mel bands of the spectrogram.
        window: Seconds over which the frames are spread; in evaluation those in the middle of a file.
        seconds: Seconds of every file that are used, from its start.
        sample_rate: Samples of sound per second.
        hop: Seconds from one time step of the spectrogram to the next.
        span: Seconds that each time step hears.
        mel_mean: Mean of the log-mel, which is subtracted.
        mel_deviation: Standard deviation of the log-mel, by which is divided.
        picture_mean: Mean of red, green and blue in 0..1, which is subtracted.
        picture_deviation: Standard deviation of red, green and blue, by which is divided.
    """

    name: ClassVar[str] = "preprocessing"

    rendered: bool = False
    frames: PositiveInt = 4
    height: PositiveInt = 224
    width: PositiveInt = 224
    times: PositiveInt = 1024
    mels: PositiveInt = 128
    window: PositiveFloat = 4.0
    seconds: PositiveFloat = 10.0
    sample_rate: PositiveInt = decode.RATE
    hop: PositiveFloat = log_mel.HOP
    span: PositiveFloat = log_mel.SPAN
    mel_mean: float = log_mel.MEAN
    mel_deviation: PositiveFloat = log_mel.DEVIATION
    picture_mean: Channels = transforms.MEAN
    picture_deviation: Channels = transforms.DEVIATION

    @classmethod
    def published(cls, shape: Shape) -> "Preprocessing":
        """That of the papers for clips of this shape: STELLA's, or CAV-MAE's of one frame."""
        return cls(**shape._asdict(), window=INSTANT if shape.frames == 1 else cls.window)

    def mistakes(self) -> Iterator[str]:
        """Sound is decoded at one rate; the window must fit."""
        if self.sample_rate != decode.RATE:
            yield f"sample_rate: invalid value {self.sample_rate}: must be {decode.RATE}, the rate of decoding"
        if self.window > self.seconds:
            yield f"window: {self.window:g} is longer than the {self.seconds:g} seconds used of every file"

    def settings(self) -> dict[str, Any]:
        """The fields as plain values; of rendered clips those that say something."""
        return {key: value for key, value in super().settings().items() if not (self.rendered and key in RECORDING)}

    @property
    def shape(self) -> Shape:
        """What every clip looks like."""
        return Shape(self.frames, self.height, self.width, self.times, self.mels)

    @property
    def heard(self) -> float:
        """Seconds of sound that are read: those used of a file, as far as the spectrogram reaches."""
        return min(self.seconds, self.times * self.hop)

    def __str__(self) -> str:
        sizes = f"{self.height} x {self.width}, log-mel of {self.times} x {self.mels}"
        if self.rendered:
            return f"rendered clips, {counted(self.frames, 'frame')} of {sizes}"
        spread = "in the middle" if self.frames == 1 and self.window == INSTANT else f"in {self.window:g} s"
        return f"{counted(self.frames, 'frame')} {spread} of the first {self.seconds:g} s, {sizes}"

    def read_pictures(
        self, source: Source, length: float, chance: Generator | None = None, place: tuple[int, int] | None = None
    ) -> Tensor:
        """The pictures (T, 3, H, W) uint8 of one window of ``length`` seconds of video, by ``chance`` or the middle.

        ``place (k, n)``: without chance, the k-th of n windows that are evenly spread.
        """
        length = min(length, self.seconds)
        if chance is not None:
            start = windows.random_start(length, self.window, chance)
        elif place is not None:
            start = windows.spread_start(length, self.window, *place)
        else:
            start = windows.middle_start(length, self.window)
        return source.pictures(windows.frame_times(start, self.window, self.frames))

    def read_sound(self, source: Source) -> Tensor:
        """The sound (samples,) of a file from its start; BadClip where it is shorter than the window."""
        wave = source.sound(self.heard)
        # a header can be wrong
        require_length(source.path, "audio", len(wave) / self.sample_rate, min(self.window, self.heard))
        return wave

    def to_frames(self, pictures: Tensor, chance: Generator | None = None) -> Tensor:
        """``pictures`` (T, 3, H, W) uint8 as the backbone sees them; with ``chance`` at a random crop."""
        pictures = transforms.shrink(pictures, *transforms.store_size(self.height, self.width))
        if chance is None:
            pictures = transforms.resize(pictures, self.height, self.width)
        else:
            pictures = transforms.multi_scale_crop(pictures, self.height, self.width, chance)
        return transforms.normalise(pictures, self.picture_mean, self.picture_deviation)

    def to_mel(self, wave: Tensor, chance: Generator | None = None, centred: bool = False) -> Tensor:
        """``wave`` (samples,) as the backbone hears it, (1, times, mels); with ``chance`` noisy and rolled in time.

        ``centred``: sound that does not fill the spectrogram is in its middle.
        """
        constants = {"hop": self.hop, "span": self.span, "mean": self.mel_mean, "deviation": self.mel_deviation}
        mel = log_mel.spectrogram(wave, self.times, self.mels, centred=centred, **constants)
        return mel if chance is None else log_mel.noise_and_roll(mel, chance)
