"""Writes to the terminal: tables, and how far long work is: a bar, or a few lines where there is no terminal."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table

from avcl.errors import printable

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Found = TypeVar("Found")

PAUSE = 5.0  # seconds between two lines at least: what takes less says nothing
SLICE = 10_000  # items handed to threads at a time: a dataset may have millions


class Terminal(Console):
    """Shows names as they are, whatever is in them: neither rich's markup nor control characters mean anything."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything goes through here."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def write(*parts: str | Table) -> None:
    """Print to standard output: on a terminal as wide as it is, elsewhere one line for each row."""
    console = Terminal()
    for part in parts:
        if not console.is_terminal:
            for column in part.columns if isinstance(part, Table) else ():
                column.max_width = None
            console.width = max(80, Measurement.get(console, console.options.update(max_width=10_000), part).maximum)
        console.print(part, soft_wrap=isinstance(part, str))


def shown(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items, with a bar and the time left while they come; ten lines at most where there is no terminal."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        begun = said = time.monotonic()
        for number, item in enumerate(bar.track(items, total=total, description=what), 1):
            now = time.monotonic()
            if bar.disable and 10 * number // total > 10 * (number - 1) // total and now - said >= PAUSE:
                said = now
                left = spell((now - begun) / number * (total - number))
                log.info("%s: %s of %s, %s left", what, f"{number:,}", f"{total:,}", left)
            yield item


def in_threads(function: Callable[[Item], Found], items: Sequence[Item], what: str) -> Iterator[Found]:
    """``function`` of every item, in their order, by several threads, with a bar."""
    with ThreadPoolExecutor() as pool:
        slices = (items[start : start + SLICE] for start in range(0, len(items), SLICE))
        yield from shown(chain.from_iterable(pool.map(function, part) for part in slices), len(items), what)


def spell(seconds: float) -> str:
    """``"40 s"``, ``"12 min"``, ``"3 h 20 min"``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min"


def counted(number: int, thing: str) -> str:
    """``"1 clip"``, ``"2,000 clips"``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
