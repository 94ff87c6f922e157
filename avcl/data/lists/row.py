"""One clip of a list, wherever its files lie."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """A clip's name and labels, and what is known of its files.

    ``split``: where the list says it · ``stems``: what a media file of it may be called, without its ending ·
    ``pictures``, ``audio``, ``rate``: of a clip that was taken apart, as in ``Extracted``.
    """

    name: str
    labels: tuple[str, ...]
    split: Literal["train", "eval"] | None = None
    stems: tuple[str, ...] = ()
    pictures: str = ""
    audio: str = ""
    rate: float = 0.0


def seconds(text: str) -> float:
    """A place in a video; ValueError where it is no finite number."""
    number = float(text)
    if not math.isfinite(1000 * number):
        raise ValueError(f"{text!r} is no number of seconds")
    return number


def youtube_stems(video: str, start: float, end: float) -> tuple[str, ...]:
    """What downloaders call ten seconds of a video that begin at ``start``.

    ``id_000030`` (seconds, VGGSound's own), ``id_30000`` and ``id_030000`` (milliseconds), ``id_30000_40000``,
    ``id_30``, ``id_30_40``, ``id_30.000_40.000``, and the same after a ``Y``. Not the bare ``id``: it may as well
    be the whole video, of which other seconds would be used.
    """
    begin, stop, long, longer = round(start), round(end), round(1000 * start), round(1000 * end)
    exact = (f"{begin:06d}", f"{long}_{longer}", f"{long}", f"{long:06d}", f"{start:.3f}_{end:.3f}")
    parts = (*exact, f"{begin}_{stop}", f"{begin}")
    return tuple(f"{first}{video}_{part}" for first in ("", "Y") for part in parts)
