"""AVE, the data set of audio-visual event localization, in its published layout.

Tian et al., *Audio-Visual Event Localization in Unconstrained Videos*, ECCV 2018, arXiv 1803.08842: 4,143 clips of
10 s, 28 classes; ``trainSet.txt``, ``valSet.txt`` and ``testSet.txt`` with the lines of ``Annotations.txt``,
``Category&VideoID&Quality&StartTime&EndTime``, and videos ``AVE/<VideoID>.mp4``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from avcl.data.file_scenario import SPLITS, FileScenario
from avcl.data.segments import Segmented
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.scenario import Split
from avcl.scenarios.one_task import Entry, OneTask, lines_of


class Event(NamedTuple):
    """A line of a list, with the number of the line."""

    line: int
    category: str
    video: str
    start: int
    stop: int


@dataclass(kw_only=True)
class Ave(OneTask):
    """AVE below ``root``: its lists and videos as one task, and the event in each second for event localization.

    A video that a list has twice, with two events, is two clips.

    Args:
        train: List of the training clips, below root.
        eval: List of the evaluation clips, below root: testSet.txt, or valSet.txt to choose settings on.
    """

    name: ClassVar[str] = "ave"

    train: str = "trainSet.txt"
    eval: str = "testSet.txt"

    def entries(self, path: Path, split: Split) -> Iterator[Entry]:
        """The clips of a list; the second one of a video is called ``<VideoID>#2``."""
        for name, event in named(read_events(path)):
            yield Entry(name, event.category, event.video)

    def clips(self, task: int, split: Split) -> Segmented:
        """The usable videos, which also come as segments."""
        return Segmented(super().clips(task, split), self._events)

    def mistakes(self) -> Iterator[str]:
        """Segments are whole seconds."""
        yield from super().mistakes()
        if self.seconds != int(self.seconds):
            yield f"seconds: invalid value {self.seconds:g}: must be whole seconds, one for each segment"

    @cached_property
    def _events(self) -> dict[int, tuple[int, int]]:
        """First second of the event and the first after it, by the clip's number."""
        times = {
            (split, name): (event.start, event.stop)
            for split in SPLITS
            for name, event in named(read_events(self._list(getattr(self, split))))
        }
        return {source.index: times[split, source.name] for split in SPLITS for source in self.sources(split)}


def read_events(path: Path) -> Iterator[Event]:
    """The lines of a list after its head; UserError names a line that is none."""
    for number, line in enumerate(lines_of(path), 1):
        fields = [field.strip() for field in line.split("&")]
        if fields[0] == "Category":
            continue
        try:
            category, video, _, start, stop = fields
            event = Event(number, category, video, int(start), int(stop))
        except ValueError:
            told = "must be Category&VideoID&Quality&StartTime&EndTime, with whole seconds"
            raise UserError(f"{path}:{number}: invalid line {line!r}: {told}") from None
        yield event


def named(events: Iterable[Event]) -> Iterator[tuple[str, Event]]:
    """Each event with the name of its clip: that of the video, with a number where it comes again."""
    times: Counter[str] = Counter()
    for event in events:
        times[event.video] += 1
        yield (event.video if times[event.video] == 1 else f"{event.video}#{times[event.video]}"), event


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [Ave]
