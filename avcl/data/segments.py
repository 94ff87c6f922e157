"""Media files as rows of short segments, each with the event in it: what event localization is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

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
        super().__init__(files.sources, files.preprocessing)
        self.events = events

    def segments(self, number: int) -> Segments:
        """All seconds of one clip; BadClip where it cannot be used.

        As many frames of each as a sample has, and its sound in the middle of a spectrogram, padded on both sides.
        """
        source, how = self.sources[number], self.preprocessing
        inspect(source, how.window, how.seconds)
        many = int(how.seconds)
        pictures = source.pictures([second + k / how.frames for second in range(many) for k in range(how.frames)])
        wave = source.sound(how.seconds)
        wave = pad(wave, (0, max(0, many * how.sample_rate - len(wave))))
        seconds = wave[: many * how.sample_rate].reshape(many, how.sample_rate)
        start, stop = self.events[source.index]
        event = [source.label if start <= second < stop else BACKGROUND for second in range(many)]
        return Segments(
            frames=how.to_frames(pictures).unflatten(0, (many, how.frames)),
            mel=torch.stack([how.to_mel(second, centred=True) for second in seconds]),
            event=torch.tensor(event),
        )
