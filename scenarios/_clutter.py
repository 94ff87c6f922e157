"""What makes a clip of the synthetic stream ask for matching: all else that looks and sounds like its source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from avcl.clip import Shape
from avcl.scenarios import _render as render

BANDS = 4
MOTION = 0.05  # of a frame's side: what moves more gives itself away by it, and so do still objects before it


def cloth(generator: Generator, kind: render.Kind, tint: float, shape: Shape) -> render.Array:
    """A background of the cloth that objects of this kind are cut from, (T, 3, H, W).

    Its stripes have their period and variance, but every angle: they are rings around a place that moves. ``tint`` 0
    is grey; at 1 they are as vivid as the objects', in a hue that goes through one to two turns across the frame, so
    that none is that of the background.
    """
    scale = 64 / min(shape.height, shape.width)
    y, x = (scale * part for part in np.ogrid[0 : shape.height, 0 : shape.width])
    time = np.linspace(-0.5, 0.5, shape.frames)[:, None, None]
    (row, column, climb, way, drift), (angle, hue) = generator.uniform(-0.5, 0.5, 5), generator.uniform(0.0, 1.0, 2)
    centre_y = scale * shape.height * (0.5 + row + MOTION * climb * time)
    centre_x = scale * shape.width * (0.5 + column + MOTION * way * time)
    stripes = 0.5 + 0.5 * np.cos(render.TURN / kind.period * np.hypot(y - centre_y, x - centre_x))
    turns = generator.uniform(1.0, 2.0) / 64
    across = (
        turns * (x * np.cos(render.TURN * angle) + y * np.sin(render.TURN * angle)) + hue + 2 * MOTION * drift * time
    )
    wave = np.cos(render.TURN * (across[:, None] - np.arange(3)[:, None, None] / 3))
    # stripes between a grey t and colours m + v/2 cos have variance ((m - t)² + 3/8 v²) / 8: m makes up for less v
    apart = np.sqrt((0.5 - kind.tone) ** 2 + 0.375 * (1.0 - tint**2))
    colour = kind.tone + (apart if kind.tone < 0.5 else -apart) + 0.5 * tint * wave
    return (kind.tone + (colour - kind.tone) * stripes[:, None]).astype(np.float32)


def floor(generator: Generator, shape: Shape) -> render.Array:
    """A noise floor with rhythms of its own, (times, mels): bands of the spectrum, each swelling at its own rate."""
    time = (np.arange(shape.times) + 0.5)[:, None] / shape.times
    place = (np.arange(shape.mels) + 0.5) / shape.mels
    level = np.zeros((shape.times, shape.mels), np.float32)
    for band in range(BANDS):
        beats, phase, shift = generator.uniform(2.0, 12.0), *generator.uniform(size=2)
        swell = 0.5 + 0.5 * np.cos(render.TURN * (beats * time + phase))
        level += (swell * np.exp(-0.5 * ((place - (band + shift) / BANDS) * 2 * BANDS) ** 2)).astype(np.float32)
    return level


def turns(
    generator: Generator, count: int, source: render.Sound, kind: render.Kind, sizes: render.Sizes
) -> Iterator[render.Sound]:
    """``count`` sounds like the ``source``, in its pauses.

    All take turns: each sounds in the longest pause that is left, cut to it where it is longer. So at any moment the
    source is hardly likelier to be heard than another.
    """
    pauses = [(0.0, source.onset), (source.onset + source.duration, 1.0)]
    for _ in range(count):
        start, stop = max(pauses, key=lambda pause: pause[1] - pause[0])
        sound = render.sound_of(render.look(generator), kind, sizes)
        duration = min(sound.duration, stop - start)
        onset = start + generator.uniform() * (stop - start - duration)
        pauses.remove((start, stop))
        pauses += [(start, onset), (onset + duration, stop)]
        yield sound._replace(onset=onset, duration=duration)
