"""What published data sets with a training list and a test list have in common: a stream of one task."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from avcl.data.file_scenario import SPLITS, FileScenario
from avcl.data.source import Source
from avcl.errors import UserError
from avcl.scenario import Split
from avcl.scenarios.selection import Selection, list_path, media_files


class Entry(NamedTuple):
    """A clip of a list: what it is called, its class, and the name of its file without the ending."""

    name: str
    label: str
    stem: str


@dataclass(kw_only=True)
class OneTask(FileScenario):
    """Base of data sets with a list for each split, whose videos lie below one folder, however deep.

    The task is called like the scenario. A store brings copies of the lists: with it, ``root`` need not be there.

    Args:
        root: Folder below which lists and videos lie.
        train: List of the training clips, below root.
        eval: List of the evaluation clips, below root.
    """

    root: str
    train: str = ""
    eval: str = ""

    def entries(self, path: Path, split: Split) -> Iterable[Entry]:
        """The clips of a list for a split, in its order; UserError where it is none."""
        raise NotImplementedError

    @property
    def task_names(self) -> tuple[str, ...]:
        """One task."""
        return (self.name,)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label, in alphabetical order, of both lists."""
        return tuple(sorted({entry.label for split in SPLITS for entry in self._entries[split]}))

    def sources(self, split: Split) -> list[Source]:
        """The clips of a split that are there."""
        return self._selection.sources[split]

    @property
    def absent(self) -> list:
        """Clips that are missing or listed twice."""
        return self._selection.absent

    @property
    def lists(self) -> dict[str, Path]:
        """The two lists by their names below the root."""
        return {name: self._list(name) for name in (self.train, self.eval)}

    def mistakes(self) -> Iterator[str]:
        """The lists must be there, and say what they should."""
        wrong = list(super().mistakes())
        yield from wrong
        if wrong:
            return
        if not os.path.isdir(self._root) and not self.store:
            yield f"root: {self.root!r} is no folder; it must hold the lists and the videos"
            return
        for split in SPLITS:
            path = self._list(getattr(self, split))
            if not os.path.isfile(path):
                yield f"{split}: no file {str(path)!r}; the path counts from root"
                continue
            try:
                if not list(self.entries(path, split)):
                    yield f"{split}: {path} lists no clip"
            except UserError as error:
                yield f"{split}: {error}"

    @cached_property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    def _list(self, name: str) -> Path:
        """Where a list lies: below the root, or else in the store."""
        return list_path(self._root, self.store, name)

    @cached_property
    def _entries(self) -> dict[Split, list[Entry]]:
        return {split: list(self.entries(self._list(getattr(self, split)), split)) for split in SPLITS}

    @cached_property
    def _media(self) -> dict[str, str]:
        return media_files(self._root)

    @cached_property
    def _selection(self) -> Selection:
        """Go through the lists once."""
        chosen, index = Selection(), 0
        labels = {name: label for label, name in enumerate(self.class_names)}
        for split in SPLITS:
            seen: set[str] = set()
            for entry in self._entries[split]:
                if entry.name in seen:
                    chosen.leave_out(split, self.name, entry.name, "listed twice")
                    continue
                seen.add(entry.name)
                source = self._source(entry, split, labels[entry.label], index)
                index += 1
                if source is None:
                    chosen.leave_out(split, self.name, entry.name, "missing")
                else:
                    chosen.sources[split].append(source)
        chosen.warn()
        for split in SPLITS:
            if (missing := chosen.missing(split)) and not chosen.sources[split]:
                listed = f"none of the {missing} clips of {split} ({getattr(self, split)})"
                raise UserError(
                    f"{self.name}: {listed} is below {self._root}; the first: {self._entries[split][0].stem}.mp4"
                )
        return chosen

    def _source(self, entry: Entry, split: str, label: int, index: int) -> Source | None:
        """The clip where it lies, None where it does not; its number does not depend on which clips are there."""
        if self._store:
            return self._store.find(split, entry.name, label, 0, index)
        path = self._media.get(entry.stem, "")
        return Source(path, label, 0, index, entry.name, self.bounds) if path else None


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that are not empty; UserError where it cannot be read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
