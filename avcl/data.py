"""What is there of a scenario's clips and what is wrong with it: the verbs of ``avcl data``."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from avcl import config
from avcl.errors import BadClip, UserError
from avcl.media import transforms
from avcl.media.digest import fingerprint
from avcl.media.files import Files, Source
from avcl.media.scenario import SPLITS, FromFiles
from avcl.media.store import Form
from avcl.media.storing import Making, clips_of, finish, merge
from avcl.settings import plain
from avcl.streams import Split

log = logging.getLogger(__name__)

Item = TypeVar("Item")

STATES = ("usable", "missing", "unreadable", "mute", "without video", "short", "left out")
NOTES = ("still", "duplicated")
STILL = 1.0  # levels of 255 by which pictures differ on average, where nothing but the coding changes


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
        """As the scenario says it: of the clips that are there, good or bad."""
        return fingerprint((clip.split, clip.task, clip.name, clip.digest) for clip in self.clips if clip.path)

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
        """The counts, for people."""
        columns = ("found", *STATES[1:], *NOTES, STATES[0])
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in ("split", "task", *columns):
            table.add_column(column, justify="left" if column in ("split", "task") else "right", overflow="fold")
        for (split, task), row in self.counts().items():
            table.add_row(split, task or "-", *(f"{row[column]:,}" for column in columns))
        return table

    def write(self, path: Path) -> None:
        """The list, for machines."""
        counts = [{"split": split, "task": task, **row} for (split, task), row in self.counts().items()]
        settings = {"name": self.scenario.name, **self.scenario.settings()}
        clips = [asdict(clip) for clip in self.clips]
        content = {"scenario": settings, "fingerprint": self.fingerprint, "counts": counts, "clips": clips}
        aside = path.with_name(path.name + ".writing")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8", errors="surrogateescape")
            os.replace(aside, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def scenario_of_files(raw: Mapping[str, Any]) -> FromFiles:
    """The scenario of a configuration; UserError where it does not read files."""
    scenario = config.scenario_of(raw)
    if not isinstance(scenario, FromFiles):
        raise UserError(f"scenario: {scenario.name!r} reads no files; its clips need neither a check nor a store")
    return scenario


def check(scenario: FromFiles) -> Report:
    """Look into every clip: containers are read whole, sound is decoded, and pictures as evaluation sees them."""
    files = Files([], scenario.shape, scenario.window, scenario.seconds)
    clips = [
        Seen(split, task, name, state="missing" if reason == "missing" else "left out", reason=reason)
        for split, task, name, reason in scenario.absent
    ]
    listed = [(split, source) for split in SPLITS for source in scenario.sources(split)]
    with ThreadPoolExecutor() as pool:
        look = pool.map(lambda pair: _look(pair[0], pair[1], scenario.task_names[pair[1].task], files), listed)
        clips += shown(look, len(listed), "looking into clips")
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
    per_shard: int = 64,
) -> Iterator[str]:
    """Decode all clips of a scenario once, into a store that it can read; yields what there is to say.

    ``share``, ``of``: make only this part of the shards · ``rate``: frames a second, of the size from which
    training crops · ``quality``: of JPEG; PNG loses nothing. Finished shards are never made again.
    """
    if scenario.store:
        raise UserError("scenario.store: a store is made of files; leave it out to prepare one")
    clips = clips_of(scenario)
    height, width = transforms.store_size(scenario.height, scenario.width)
    form = Form(height, width, rate, scenario.seconds, codec, quality if codec == "jpeg" else 0)
    making = Making(folder, clips, form, per_shard)
    making.claim()
    todo = making.shards(share, of)
    begun = time.monotonic()
    made = list(shown(making.make(todo, workers), len(todo), "preparing shards"))
    if todo:
        count = sum(len(making.parts[number]) for number in todo)
        yield f"{count:,} clips in {len(todo)} shards, {count / (time.monotonic() - begun):.1f} clips a second"
    left = making.shards()
    if left:
        elsewhere = f"; another process makes {made.count(False)} of them" if not all(made) else ""
        yield f"{folder}: not complete, {len(left)} of {len(making.parts)} shards are still to be made{elsewhere}"
    else:
        yield from _told(folder, finish(making.folder))


def merged(parts: Sequence[Path], folder: Path) -> Iterator[str]:
    """Bring the parts of a store that several machines made together; yields what there is to say."""
    yield from _told(folder, merge(parts, folder))


def _told(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    size = sum(shard["bytes"] for shard in facts["shards"])
    kept = max(1, facts["clips"] - len(facts["quarantined"]))
    for reason, times in Counter(row["reason"] for row in facts["quarantined"]).most_common():
        yield f"{times:,} clips cannot be decoded: {reason}"
    yield f"{folder}: complete, {facts['clips']:,} clips, {size / kept / 1e6:.3f} MB for each that can be used"


def shown(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items, with a bar and the time left while they come; ten lines where there is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        begun = time.monotonic()
        for number, item in enumerate(bar.track(items, total=total, description=what), 1):
            if bar.disable and 10 * number // total > 10 * (number - 1) // total:
                left = (time.monotonic() - begun) / number * (total - number)
                log.info("%s: %d of %d, %.0f s left", what, number, total, left)
            yield item


def _look(split: Split, source: Source, task: str, files: Files) -> Seen:
    clip = Seen(split, task, source.name, source.path, digest=source.digest())
    try:
        pictures, _ = files.decoded(source)
        clip.still = _still(pictures)
    except BadClip as bad:
        clip.state, clip.reason = _state(bad.reason), bad.reason
    return clip


def _still(pictures: Tensor) -> bool:
    return len(pictures) > 1 and bool((pictures.float() - pictures[:1].float()).abs().mean((1, 2, 3)).max() < STILL)


def _state(reason: str) -> str:
    """The column of the table that a BadClip belongs to."""
    if reason in ("mute", "no audio stream"):
        return "mute"
    if reason == "no video stream":
        return "without video"
    return "short" if "shorter than" in reason else "unreadable"
