"""Draws one clip of the synthetic stream: what an object looks like, and how it sounds because of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from avcl.clip import Shape

Array = NDArray[np.float32]
TURN = 2 * np.pi
SPACING = 0.25  # of two odd harmonics, in shares of the mel axis: after one turn of the pitch all is as before


@dataclass(frozen=True)
class Kind:
    """A class of objects: what it looks like, how it sounds, and the law between the two.

    Seen, its stripes: ``angle`` in half turns, ``period`` in pixels of a frame 64 pixels high, ``tone``: the
    grey, from black to white, that takes turns with the object's hue. Heard, its timbre: ``formant``, the
    strongest place of the spectrum in shares of the mel axis, ``even``: the level of the even harmonics.
    ``law``: what is added to the hue to give the pitch.
    """

    angle: float
    period: float
    tone: float
    formant: float
    even: float
    law: float


@dataclass(frozen=True)
class Sizes:
    """How much of a clip its source fills: mean side of the object, mean length of the sound, in shares.

    ``edges``: how much it seeks the edges of frame and clip, from 0, where it keeps within them and is therefore
    more often in the middle, to 1, where the middle is no likelier than any other place.
    """

    object: float
    sound: float
    edges: float = 0.0

    def place(self, share: float) -> float:
        """Where ``share`` of the way from edge to edge leads: at 1 by the arcsine law, which seeks both ends."""
        return float((1.0 - self.edges) * share + self.edges * np.sin(TURN / 4 * share) ** 2)


class Sight(NamedTuple):
    """What is seen of the sounding object, each in 0..1: drawn anew for every clip."""

    hue: float
    size: float
    column: float
    row: float
    climb: float


class Sound(NamedTuple):
    """What is heard of it: ``pitch`` and ``brightness`` in 0..1, ``beat`` in beats a clip, the rest in shares."""

    pitch: float
    brightness: float
    beat: float
    onset: float
    duration: float


def look(generator: Generator) -> Sight:
    """Five independent factors, uniform whatever the class."""
    return Sight(*generator.uniform(size=5).tolist())


def sound_of(sight: Sight, kind: Kind, sizes: Sizes) -> Sound:
    """How an object of this kind sounds when it looks so.

    Its hue sets the pitch by the law of its kind; a small object sounds bright and short; the further left it
    stands, the earlier it is heard; the faster it climbs, the faster it beats.
    """
    duration = sizes.sound * (0.6 + 0.8 * sight.size)
    duration = min(duration, 1.0)
    return Sound(
        pitch=(sight.hue + kind.law) % 1.0,
        brightness=1.0 - sight.size,
        beat=10.0 + 22.0 * sight.climb,
        onset=(1.0 - duration) * sizes.place(sight.column),
        duration=duration,
    )


def interval(sound: Sound, shape: Shape) -> tuple[int, int]:
    """First mel frame of the sound and the first after it."""
    start = round(sound.onset * shape.times)
    return start, min(shape.times, max(start + 1, round((sound.onset + sound.duration) * shape.times)))


def outline(sight: Sight, sizes: Sizes, shape: Shape) -> NDArray[np.bool_]:
    """The object's pixels (T, H, W): a disc that climbs or sinks by up to a quarter of the frame.

    With ``sizes.edges`` up to a quarter of its width may be outside.
    """
    side = min(shape.height, shape.width)
    radius = min(0.5 * sizes.object * (0.7 + 0.6 * sight.size), 0.5) * side
    margin = radius * (1.0 - 0.5 * sizes.edges)
    column = margin + sizes.place(sight.column) * (shape.width - 2 * margin)
    room = max(shape.height - 2 * margin, 0.0)
    way = np.linspace(-0.5, 0.5, shape.frames) if shape.frames > 1 else np.zeros(1)
    row = margin + np.clip(sizes.place(sight.row) * room - (sight.climb - 0.5) * 0.5 * shape.height * way, 0.0, room)
    y, x = np.ogrid[0.5 : shape.height, 0.5 : shape.width]
    return (x - column) ** 2 + (y - row[:, None, None]) ** 2 <= max(radius, 1.0) ** 2


def paint(frames: Array, where: NDArray[np.bool_], kind: Kind, hue: float, vivid: float) -> None:
    """Colour the pixels ``where`` (T, H, W) of ``frames`` (T, 3, H, W); ``vivid`` 0 is grey, 1 the full hue."""
    height, width = frames.shape[-2:]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * np.float32(64 / min(height, width))
    angle = np.pi * kind.angle
    stripes = 0.5 + 0.5 * np.cos(TURN / kind.period * (x * np.cos(angle) + y * np.sin(angle)))
    colour = 0.5 + 0.5 * vivid * np.cos(TURN * (hue - np.arange(3) / 3))
    texture = (kind.tone + (colour[:, None, None] - kind.tone) * stripes).astype(np.float32)
    for frame, pixels in zip(frames, where, strict=True):
        np.copyto(frame, texture, where=pixels)


def background(generator: Generator, shape: Shape) -> Array:
    """Two coloured waves that drift from frame to frame, (T, 3, H, W)."""
    y, x = np.ogrid[0 : shape.height, 0 : shape.width]
    time = np.linspace(0.0, 1.0, shape.frames)[:, None, None, None]
    frames = np.full(shape.tensors["frames"], 0.45, np.float32)
    for _ in range(2):
        across, down, drift = generator.uniform(-1.5, 1.5, size=3)
        phase = generator.uniform(size=(3, 1, 1)) * 0.3 + generator.uniform()
        turns = across * x / shape.width + down * y / shape.height + drift * time + phase
        frames += (0.1 * np.cos(TURN * turns)).astype(np.float32)
    return frames


def heard(sound: Sound, kind: Kind, shape: Shape) -> Array:
    """The log-mel level of the sound alone, (times, mels), 0 where there is none."""
    start, stop = interval(sound, shape)
    time = np.arange(start, stop) + 0.5
    edge = np.minimum(1.0, np.minimum(time - start, stop - time) / 3.0)
    beats = 0.65 + 0.35 * np.cos(TURN * sound.beat * (time - start) / shape.times)
    place = (np.arange(shape.mels) + 0.5) / shape.mels
    turn = TURN * (place / SPACING - sound.pitch)
    comb = np.exp(3.0 * (np.cos(turn) - 1.0)) + kind.even * np.exp(-3.0 * (np.cos(turn) + 1.0))
    body = 0.6 + 0.4 * np.cos(TURN * (place - kind.formant))
    tilt = 1.0 + 0.8 * (sound.brightness - 0.5) * (2.0 * place - 1.0)
    level = np.zeros((shape.times, shape.mels), np.float32)
    level[start:stop] = (edge * beats)[:, None] * (comb * body * tilt)
    return level
