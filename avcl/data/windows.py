"""Which moments of a clip a sample shows: a window of frames, moved in steps of 1/8 s.

The published pipelines keep 8 frames of a second; moving on the same grid shows the same moments, whether
frames come from such a store or from the video itself.
"""

from numpy.random import Generator

STEP = 1 / 8


def room(length: float, window: float) -> int:
    """By how many steps a window can move in a clip of ``length`` seconds; negative where it does not fit.

    ``length`` counts to the nearest step: clips are often cut a frame short.
    """
    return round((length - window) / STEP)


def random_start(length: float, window: float, generator: Generator) -> float:
    """Training: any step but the last, as published (0 to 5.875 s for 4 s of 10 s)."""
    return int(generator.integers(max(room(length, window), 1))) * STEP


def middle_start(length: float, window: float) -> float:
    """Evaluation: the middle (3 s for 4 s of 10 s)."""
    return room(length, window) // 2 * STEP


def spread_start(length: float, window: float, number: int, of: int) -> float:
    """Evaluation on several windows: ``number`` of so many, evenly spread (0, 2, 4, 6 s for 4 of 4 s in 10 s)."""
    return room(length, window) * number // max(of - 1, 1) * STEP


def frame_times(start: float, window: float, frames: int) -> list[float]:
    """When the frames of a window are taken: evenly, the first at its start (1 s apart for 4 in 4 s)."""
    return [start + window * k / frames for k in range(frames)]
