"""What is there of a scenario's clips and what is wrong with it: the verbs of ``avcl data``."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from avcl.config.build import scenario_of
from avcl.data import transforms
from avcl.data.dataset import glance
from avcl.data.file_scenario import SPLITS, FromFiles
from avcl.data.fingerprint import fingerprint
from avcl.data.store.encode import Clip
from avcl.data.store.format import Form
from avcl.data.store.write import Making, clips_of, finish, merge
from avcl.errors import BadClip, UserError
from avcl.settings import plain
from avcl.utils.atomic import coded, fresh
from avcl.utils.console import in_threads, shown

STATES = ("usable", "missing", "unreadable", "mute", "without video", "short", "left out")
NOTES = ("still", "duplicated")


@dataclass
class Seen:
    """What became of one listed clip: its ``state``, why, and the content of its files.

    ``still``: nothing moves in it · ``duplicated``: the earlier clip that has the same content.
    """

    split: str
    task: str
    name: str
    path: str = ""
    state: str = "usable"
    reason: str = ""
    digest: str = ""
    still: bool = False
    duplicated: str = ""


@dataclass
class Report:
    """Every clip of a scenario, looked into; ``fingerprint`` is what ``run.json`` calls data."""

    scenario: FromFiles
    clips: list[Seen]

    @property
    def fingerprint(self) -> str:
        """As the scenario says it: of the tasks' clips that are there, good or bad."""
        mine = [clip for clip in self.clips if clip.path and clip.split in SPLITS]
        return fingerprint((clip.split, clip.task, clip.name, clip.digest) for clip in mine)

    def counts(self) -> dict[tuple[str, str], Counter[str]]:
        """How many clips of each split and task are in each state; a task may be empty, for clips that have none."""
        table: dict[tuple[str, str], Counter[str]] = {
            (split, task): Counter() for split in SPLITS for task in self.scenario.task_names
        }
        for clip in self.clips:
            row = table.setdefault((clip.split, clip.task), Counter())
            row[clip.state] += 1
            row["found"] += bool(clip.path)
            row["still"] += clip.still
            row["duplicated"] += bool(clip.duplicated)
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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with fresh(path) as file:
                file.write(coded(plain(content)))
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def scenario_of_files(raw: Mapping[str, Any]) -> FromFiles:
    """The scenario of a configuration; UserError where it does not read files."""
    scenario = scenario_of(raw)
    if not isinstance(scenario, FromFiles):
        raise UserError(f"scenario: {scenario.name!r} reads no files; its clips need neither a check nor a store")
    return scenario


def check(scenario: FromFiles) -> Report:
    """Look into every clip: its packets are read, and it is decoded until something is heard and moves."""
    clips = [
        Seen(split, task, name, state="missing" if reason == "missing" else "left out", reason=reason)
        for split, task, name, reason in scenario.absent
    ]
    clips += in_threads(lambda clip: _look(clip, scenario), clips_of(scenario), "looking into clips")
    first: dict[str, Seen] = {}
    for clip in clips:
        earlier = first.setdefault(clip.digest or clip.name, clip)
        if clip.digest and earlier is not clip:
            clip.duplicated = f"{earlier.split}/{earlier.name}"
    return Report(scenario, clips)


def prepare(
    scenario: FromFiles,
    folder: Path,
    *,
    share: int = 1,
    of: int = 1,
    workers: int = 1,
    rate: float = 8.0,
    codec: Literal["jpeg", "png"] = "jpeg",
    quality: int = 90,
    per_shard: int | None = None,
) -> Iterator[str]:
    """Decode all clips of a scenario once, into a store that it can read; yields what there is to say.

    ``share``, ``of``: make only this part of the shards · ``rate``: frames a second, of the size from which
    training crops · ``quality``: of JPEG; PNG loses nothing. Finished shards are never made again.
    """
    if scenario.store:
        raise UserError("scenario.store: a store is made of files; leave it out to prepare one")
    clips = clips_of(scenario)
    if not clips:
        tasks = ", ".join(scenario.task_names)
        raise UserError(f"scenario: {scenario.name!r} has no clip of {tasks}; `avcl data check` counts what is there")
    height, width = transforms.store_size(scenario.height, scenario.width)
    form = Form(height, width, rate, scenario.seconds, codec, quality if codec == "jpeg" else 0)
    making = Making(folder, clips, form, per_shard, scenario.selection)
    making.claim(scenario.lists)
    todo, total = making.shards(share, of), len(making.parts)
    begun = time.monotonic()
    made = list(shown(making.make(todo, workers), len(todo), "preparing shards"))
    if todo:
        count = sum(len(making.parts[number]) for number in todo)
        speed = count / (time.monotonic() - begun)
        yield f"{count:,} of {len(clips):,} clips in {len(todo)} of {total} shards, {speed:.1f} clips a second"
    left = len(making.shards())
    if not left:
        yield from _told(folder, finish(making.folder))
    elif all(made) and of > 1:
        others = f"{left} of {total} shards are left to other parts"
        yield f"{folder}: part {share}/{of} is finished; {others}; `avcl data merge` joins parts of different folders"
    else:
        elsewhere = "" if all(made) else ", by another process that is at it; the same command looks again"
        yield f"{folder}: not complete, {left} of {total} shards are still to be made{elsewhere}"


def merged(parts: Sequence[Path], folder: Path) -> Iterator[str]:
    """Bring the parts of a store that several machines made together; yields what there is to say."""
    yield from _told(folder, merge(parts, folder))


def _told(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    size = sum(shard["bytes"] for shard in facts["shards"])
    kept = max(1, facts["clips"] - len(facts["quarantined"]))
    reasons = Counter(re.sub(r"\d+(\.\d+)?", "#", row["reason"]) for row in facts["quarantined"])
    for reason, times in reasons.most_common():
        yield f"{times:,} of {facts['clips']:,} clips cannot be decoded: {reason}"
    yield f"{folder}: complete, {facts['clips']:,} clips, {size / kept / 1e6:.3f} MB a usable clip"


def _look(clip: Clip, scenario: FromFiles) -> Seen:
    source = clip.source
    seen = Seen(clip.split, clip.task, source.name, source.path, digest=source.digest())
    try:
        seen.still = glance(source, scenario.window, scenario.seconds)
    except BadClip as bad:
        seen.state, seen.reason = _state(bad.reason), bad.reason
    return seen


def _state(reason: str) -> str:
    """The column of the table that a BadClip belongs to."""
    if reason in ("mute", "no audio stream"):
        return "mute"
    if reason == "no video stream":
        return "without video"
    return "short" if "shorter than" in reason else "unreadable"
