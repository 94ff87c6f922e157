"""Whether a store serves what a scenario asks for: its frames, their moments, and the clips themselves."""

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from avcl.clip import Shape
from avcl.data import transforms, windows
from avcl.data.store.format import Store

FASTEST = 240  # frames a second that a store may have
# Settings that choose clips: those in words by how much they choose, the least first; at most so many; by name.
RANKS: dict[str, tuple[tuple[str | None, ...], ...]] = {
    "gallery": (("task classes",), ("all",)),
    "pretraining": ((None,), ("unused",), ("authors", "all")),  # what authors lacks is kept to be trained on
}
CAPS = ("train_per_class", "eval_per_class")
LISTS = ("order", "pretraining_lists")


def mismatches(store: Store, shape: Shape, window: float, seconds: float) -> Iterator[str]:
    """A line for each setting of samples that the frames of a store cannot serve."""
    form = store.form
    size = transforms.store_size(shape.height, shape.width)
    if (form.height, form.width) != size:
        kept = f"{form.height} x {form.width}"
        yield f"store: its frames are {kept}; must be {size[0]} x {size[1]} for height and width"
    if form.seconds < seconds:
        yield f"store: has {form.seconds:g} seconds of every clip; seconds asks for {seconds:g}"
    needed = grid_rate(seconds, window, shape.frames)
    if needed > FASTEST:
        yield "store: no rate has all moments that frames and window ask for; change them, or read the files"
    elif not is_multiple(form.rate, needed):
        lacks = f"has {form.rate:g} frames a second; frames and window need {needed:g}"
        yield f"store: {lacks}: prepare with --rate {needed:g}"


def grid_rate(seconds: float, window: float, frames: int) -> float:
    """The least frames a second of a store that has every moment of every window in clips of ``seconds``."""
    steps = [Fraction(window).limit_denominator(10_000) / frames] if frames > 1 else []
    if windows.room(seconds, window) > 1 or not steps:  # else every window is the first
        steps.append(Fraction(windows.STEP))
    below = math.lcm(*(step.denominator for step in steps))
    return below / math.gcd(*(int(step * below) for step in steps))


def is_multiple(rate: float, needed: float) -> bool:
    """Whether a store of ``rate`` has all moments of one of ``needed``."""
    return rate > needed / 2 and abs(rate / needed - round(rate / needed)) < 1e-5  # 3.33333 is 10 / 3


def wider(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """A line for each setting that asks for clips which a store that was prepared with ``had`` need not have."""
    for name in (name for name in had if name in wanted):
        one, other = had[name], wanted[name]
        more = name == "eval_share" and other != one
        ranks = [number for value in (one, other) for number, rank in enumerate(RANKS.get(name, ())) if value in rank]
        if len(ranks) == 2:
            more = ranks[1] > ranks[0]
        elif f"{name}_per_class" in CAPS:  # of another list other clips are the first ones
            more = Path(other) != Path(one) and had.get(f"{name}_per_class") is not None
        elif name in CAPS and isinstance(one, int):
            more = other is None or other > one
        elif name in LISTS and isinstance(one, list) and isinstance(other, list):
            other = [part for part in other if part not in one]
            more = bool(other)
        if name == "train_per_class" and wanted.get("pretraining") == "authors":
            more = other != one  # what the tasks do not train on is to be pre-trained on, and was kept as that
        if more:
            asked = f"was prepared with {name} = {_shown(one)}; {_shown(other)} is asked for"
            yield f"store: {asked}: prepare again with it"


def _shown(value: Any) -> str:
    """As YAML has it."""
    return "null" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
