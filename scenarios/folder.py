"""Your own videos as a stream: a folder of tasks, which are folders of classes, which hold the clips."""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field

from avcl.data.file_scenario import ENDINGS, SPLITS, FileScenario
from avcl.data.source import Source
from avcl.hookspecs import hookimpl
from avcl.scenario import Split
from avcl.scenarios.splits import wrong_order

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A clip where it lies."""

    split: Split
    task: str
    label: str
    path: Path


@dataclass(kw_only=True)
class Folder(FileScenario):
    """Videos in ``root/<task>/<class>/<clip>.mp4`` (or mkv, webm, avi, mov, ...): the folders name everything.

    Where ``root`` holds just the folders ``train`` and ``eval``, each with ``<task>/<class>/`` in it, they are
    the splits. A class has the same label in every task where a folder has its name.

    Args:
        root: Folder of task folders.
        order: Task folders in the order of the stream, all or some; default: all, task2 before task10.
        eval_share: Share of each class's clips held out for evaluation, at least one, chosen by a hash of their names.
    """

    name: ClassVar[str] = "folder"

    root: str
    order: tuple[str, ...] | None = None
    eval_share: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @property
    def task_names(self) -> tuple[str, ...]:
        """``order``, or all task folders."""
        return self.order or tuple(self._tasks)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label."""
        return tuple(sorted({found.label for found in self._found}, key=natural))

    def sources(self, split: Split) -> list[Source]:
        """The files of a split; their numbers and labels do not depend on ``order``."""
        labels = {name: label for label, name in enumerate(self.class_names)}
        tasks = {name: task for task, name in enumerate(self.task_names)}
        return [
            self._source(found, labels[found.label], tasks[found.task], index)
            for index, found in enumerate(self._found)
            if found.split == split and found.task in tasks
        ]

    def mistakes(self) -> Iterator[str]:
        """The folders must be there, with clips in each."""
        wrong = list(super().mistakes())
        yield from wrong
        if wrong:
            return
        if self._store is None and not os.path.isdir(self._root):
            yield f"root: {self.root!r} is no folder; it must hold <task>/<class>/<clip>.mp4"
            return
        try:
            tasks, found = self._tasks, self._found
        except OSError as error:
            yield f"root: cannot read {error.filename!r}: {error.strerror}"
            return
        if not tasks:
            yield f"root: no task folders in {self.root!r}; it must hold <task>/<class>/<clip>.mp4"
        yield from wrong_order("order", self.order or (), tasks, f"task folder of {self.root!r}")
        there = {(clip.task, clip.split) for clip in found}
        for name in tasks if self.order is None else set(self.order) & set(tasks):
            lacking = [split for split in SPLITS if (name, split) not in there]
            if lacking == ["eval"] and not self._divided:
                yield f"root: task {name!r} has no clip to evaluate on; one of its classes needs at least two"
            elif lacking:
                where = f" of {' and '.join(lacking)}" if self._divided else ""
                yield f"root: task {name!r} has no clips{where}; they belong into <class>/ folders of it"

    @cached_property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    def _source(self, found: Found, label: int, task: int, index: int) -> Source:
        name = found.path.relative_to(self._root).as_posix()
        stored = self._store.find(found.split, name, label, task, index) if self._store else None
        return stored or Source(str(found.path), label, task, index, name, self.bounds)

    @cached_property
    def _divided(self) -> bool:
        """Whether the splits are folders."""
        return self._store is None and {folder.name for folder in folders(self._root)} == set(SPLITS)

    @cached_property
    def _tasks(self) -> list[str]:
        if self._store:
            return sorted({clip.task for clip in self._store.records}, key=natural)
        tops = [self._root / split for split in SPLITS] if self._divided else [self._root]
        return sorted({folder.name for top in tops for folder in folders(top)}, key=natural)

    @cached_property
    def _found(self) -> list[Found]:
        """Every clip below the root, in natural order, or those that a store was made of."""
        if self._store:
            return [
                Found(split, clip.task, clip.label, self._root / clip.source.name)
                for clip in self._store.records
                for split in SPLITS
                if split == clip.split
            ]
        if self._divided:
            return [Found(split, *clip) for split in SPLITS for clip in listing(self._root / split)]
        found = []
        for _, group in groupby(listing(self._root), key=lambda clip: clip[:2]):
            members = list(group)
            kept = held_out([path.name for *_, path in members], self.eval_share)
            found += [Found("eval" if clip[-1].name in kept else "train", *clip) for clip in members]
        return found


def natural(name: str) -> tuple[Any, ...]:
    """A sorting key by which ``clip2`` comes before ``clip10``."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if place % 2 else part.casefold() for place, part in enumerate(parts)], name


def folders(top: Path) -> list[Path]:
    """The folders in ``top`` that are not hidden."""
    return sorted((f for f in top.iterdir() if f.is_dir() and f.name[0] != "."), key=lambda f: natural(f.name))


def listing(top: Path) -> Iterator[tuple[str, str, Path]]:
    """(task, class, path) of every clip in ``top/<task>/<class>/``; other files are counted in the log."""
    others: Counter[str] = Counter()
    for task in folders(top):
        for label in folders(task):
            for path in sorted(label.iterdir(), key=lambda path: natural(path.name)):
                if path.name[0] == "." or path.is_dir() or not (path.is_file() or path.is_symlink()):
                    continue  # a link to nothing is a clip that cannot be used
                if path.suffix.lower() in ENDINGS:
                    yield task.name, label.name, path
                else:
                    others[path.suffix or path.name] += 1
    if others:
        log.info("%d files with other endings are not read: %s", others.total(), ", ".join(sorted(others)))


def held_out(names: Sequence[str], share: float) -> set[str]:
    """The names to evaluate on, chosen by their hashes: about ``share`` of them, but one at least, and not all."""
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())[:count])


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [Folder]
