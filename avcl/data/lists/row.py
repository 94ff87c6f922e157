"""One clip of a list, wherever its files lie."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from avcl.data.paths import below, elsewhere

NAME = re.compile(r"([\w-]{11})(?:_([\d.]+))?(?:_([\d.]+))?")
LENGTH = 10.0  # seconds of a clip of which a name says only the first


@dataclass(frozen=True)
class Row:
    """A clip's name and labels, and what is known of its files.

    ``split``: where the list says it · ``stems``: what a media file of it may be called, without its ending ·
    ``pictures``, ``audio``, ``rate``: of a clip that was taken apart, as in ``Extracted`` · ``elsewhere``: where the
    list has them instead, outside of the root, and nothing is read.
    """

    name: str
    labels: tuple[str, ...]
    split: Literal["train", "eval"] | None = None
    stems: tuple[str, ...] = ()
    pictures: str = ""
    audio: str = ""
    rate: float = 0.0
    elsewhere: str = ""


def taken_apart(root: Path, pictures: str, audio: str, rate: float) -> dict[str, Any]:
    """The fields of a clip that was taken apart; UserError where a path leads out of ``root`` by ``..``.

    Published lists have absolute paths, of their authors' disks: those are not read, unless they lie below ``root``.
    """
    if foreign := next((path for path in (pictures, audio) if elsewhere(root, path)), ""):
        return {"elsewhere": foreign}
    return {"pictures": below(root, pictures), "audio": below(root, audio), "rate": rate}


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


def stems_of(*names: str) -> tuple[str, ...]:
    """What a media file may be called where a list has these names for a clip, the first that says its seconds.

    Read are ``id_000030`` and ``id_30.000`` (seconds), ``id_30000_40000`` (milliseconds), ``id_30_40``. Of a YouTube
    id alone, as the lists of AudioSet with one clip a video have it: ``id_*``, the one file of any seconds.
    """
    alone = ""
    for name in names:
        if not (found := NAME.fullmatch(name)):
            continue
        video, start, end = found.groups()
        if start is None:
            alone = alone or f"{video}_*"
        elif end or len(start) == 6 or "." in start:
            try:
                begin = seconds(start)
                stop = seconds(end) if end else begin + LENGTH
            except ValueError:
                continue
            scale = 1000 if stop - begin >= 1000 else 1
            return youtube_stems(video, begin / scale, stop / scale)
    return (alone,) if alone else ()
