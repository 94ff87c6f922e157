"""Media files as rows of short segments, each with the event in it: what event localization is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from avcl.data import decode, log_mel, transforms
from avcl.data.dataset import Files
from avcl.data.source import inspect

BACKGROUND = -1


class Segments(NamedTuple):
    """One clip: ``frames (S, T, 3, H, W)`` and ``mel (S, 1, times, mels)`` of each segment, ``event (S,)`` its label.

    A segment without an event has the label ``BACKGROUND``.
    """

    frames: Tensor
    mel: Tensor
    event: Tensor


class Segmented(Files):
    """Files that also come as segments of a second; ``events``: first second of the event and the first after it.

    ``events`` by the clip's number in its scenario.
    """

    def __init__(self, files: Files, events: Mapping[int, tuple[int, int]]):
        super().__init__(files.sources, files.shape, files.window, files.seconds)
        self.events = events

    def segments(self, number: int) -> Segments:
        """All seconds of one clip; BadClip where it cannot be used.

        As many frames of each as the shape has, and its sound in the middle of a spectrogram, padded on both sides.
        """
        source = self.sources[number]
        inspect(source, self.window, self.seconds)
        many, (frames, height, width, times, mels) = int(self.seconds), self.shape
        pictures = source.pictures([second + k / frames for second in range(many) for k in range(frames)])
        pictures = transforms.resize(transforms.shrink(pictures, *transforms.store_size(height, width)), height, width)
        wave = source.sound(self.seconds)
        wave = pad(wave, (0, max(0, many * decode.RATE - len(wave))))
        seconds = wave[: many * decode.RATE].reshape(many, decode.RATE)
        start, stop = self.events[source.index]
        event = [source.label if start <= second < stop else BACKGROUND for second in range(many)]
        return Segments(
            frames=transforms.normalise(pictures).unflatten(0, (many, frames)),
            mel=torch.stack([log_mel.spectrogram(second, times, mels, centred=True) for second in seconds]),
            event=torch.tensor(event),
        )
