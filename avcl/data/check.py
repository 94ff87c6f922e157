"""What is there of a scenario's clips and what is wrong with it: the report of ``avcl data check``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from avcl.data.file_scenario import SPLITS, FileScenario
from avcl.data.fingerprint import fingerprint_of
from avcl.data.source import Record, glance
from avcl.errors import BadClip
from avcl.settings import plain
from avcl.utils.atomic import write_json
from avcl.utils.console import in_threads

STATES = ("usable", "missing", "corrupt", "without audio", "silent", "without video", "too short", "left out")
NOTES = ("static", "duplicate")
STATE_OF = {
    "no audio stream": "without audio",
    "no video stream": "without video",
    "silent": "silent",
    "mute": "silent",  # in stores that were made before it was called so
}


@dataclass
class Seen:
    """What became of one listed clip: its ``state``, why, and the content of its files.

    ``static``: nothing moves in it · ``duplicate``: the earlier clip that has the same content.
    """

    split: str
    task: str
    name: str
    path: str = ""
    state: str = "usable"
    reason: str = ""
    digest: str = ""
    static: bool = False
    duplicate: str = ""


@dataclass
class Report:
    """Every clip of a scenario, looked into; ``fingerprint`` is what ``run.json`` calls data.

    ``store``: what is known of the files of the store that was read.
    """

    scenario: FileScenario
    clips: list[Seen]
    store: str = ""

    @property
    def fingerprint(self) -> str:
        """As the scenario says it: of the tasks' clips that are there, good or bad."""
        mine = [clip for clip in self.clips if clip.path and clip.split in SPLITS]
        return fingerprint_of((clip.split, clip.task, clip.name, clip.digest) for clip in mine)

    def counts(self) -> dict[tuple[str, str], Counter[str]]:
        """How many clips of each split and task are in each state; a task may be empty, for clips that have none."""
        table: dict[tuple[str, str], Counter[str]] = {
            (split, task): Counter() for split in SPLITS for task in self.scenario.task_names
        }
        for clip in self.clips:
            row = table.setdefault((clip.split, clip.task), Counter())
            row[clip.state] += 1
            row["found"] += bool(clip.path)
            row["static"] += clip.static
            row["duplicate"] += bool(clip.duplicate)
        return table

    def table(self) -> Table:
        """The counts, for people: without the columns that are empty, as most are."""
        counts = self.counts()
        faults = [column for column in (*STATES[1:], *NOTES) if any(row[column] for row in counts.values())]
        columns = ("found", *faults, STATES[0])
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in ("split", "task", *columns):
            names = column in ("split", "task")
            table.add_column(column, justify="left" if names else "right", no_wrap=names, overflow="fold")
        for split in dict.fromkeys(split for split, _ in counts):
            rows = {task: row for (other, task), row in counts.items() if other == split}
            if len(rows) > 1:
                rows["all"] = sum(rows.values(), Counter())
            for task, row in rows.items():
                table.add_row(split, task or "-", *(f"{row[column]:,}" for column in columns))
            table.add_section()
        return table

    def write(self, path: Path) -> None:
        """The list, for machines."""
        counts = [{"split": split, "task": task, **row} for (split, task), row in self.counts().items()]
        settings = {"name": self.scenario.name, **self.scenario.settings()}
        clips = [asdict(clip) for clip in self.clips]
        content = {"scenario": settings, "fingerprint": self.fingerprint, "counts": counts, "clips": clips}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plain(content))


def check_clips(scenario: FileScenario) -> Report:
    """Check every clip: its packets are read, and it is decoded until something is heard and moves.

    A store is compared with its SHA-256 first; UserError has a line for each file that is damaged.
    """
    store = scenario.verify_store()
    clips = [
        Seen(split, task, name, state="missing" if reason == "missing" else "left out", reason=reason)
        for split, task, name, reason in scenario.absent
    ]
    clips += in_threads(lambda clip: _look(clip, scenario), scenario.records(), "checking clips")
    first: dict[str, Seen] = {}
    for clip in clips:
        earlier = first.setdefault(clip.digest or clip.name, clip)
        if clip.digest and earlier is not clip:
            clip.duplicate = f"{earlier.split}/{earlier.name}"
    return Report(scenario, clips, store)


def _look(clip: Record, scenario: FileScenario) -> Seen:
    source = clip.source
    seen = Seen(clip.split, clip.task, source.name, source.path, digest=source.digest())
    try:
        seen.static = glance(source, scenario.window, scenario.seconds)
    except BadClip as bad:
        seen.state, seen.reason = _state(bad.reason), bad.reason
    return seen


def _state(reason: str) -> str:
    """The column of the table that a BadClip belongs to."""
    return STATE_OF.get(reason) or ("too short" if "shorter than" in reason else "corrupt")
