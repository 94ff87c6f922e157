"""AVSBench S4 (Zhou et al., *Audio-Visual Segmentation*, ECCV 2022, arXiv 2207.05042): single sources with masks.

5 s of video, a frame and a mask for each second; of training clips the first frame alone has a mask. Frames are
pictures of 224 x 224, read as all frames are, and masks by the same code, so that crops are the same. How we differ:
the frames pass through the size of stores (256) on their way to 224, and masks with them, so that the edges of a mask
may move by a fraction of a pixel.
"""

from __future__ import annotations

import copy
import csv
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pydantic import PositiveFloat, PositiveInt

from avcl.data.dataset import Files
from avcl.data.extracted import Extracted
from avcl.data.file_scenario import SPLITS, Absent, FileScenario
from avcl.data.masks import MaskedFiles, MaskPictures
from avcl.data.paths import below
from avcl.data.source import Source
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.scenario import Split


class Listed(NamedTuple):
    """A row of the list: ``name`` is ``<split>/<category>/<vid>``, where its frames, sound and masks lie."""

    split: str
    category: str
    name: str
    number: int


@dataclass(kw_only=True)
class AvsBench(FileScenario):
    """AVSBench S4 as published below ``root``: s4_meta_data.csv and s4_data/{visual_frames,audio_wav,gt_masks}.

    One task, whose classes are the categories. A store made of it holds frames and sound; masks stay below ``root``.

    Args:
        root: Folder of s4_meta_data.csv and s4_data (Single-source in the published archive).
        evaluate_on: Split of the list to evaluate on.
    """

    name: ClassVar[str] = "avsbench"

    root: str
    evaluate_on: Literal["test", "val"] = "test"
    frames: PositiveInt = 5
    window: PositiveFloat = 5.0
    seconds: PositiveFloat = 5.0

    @property
    def task_names(self) -> tuple[str, ...]:
        """The one task."""
        return ("s4",)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The categories, sorted."""
        return tuple(sorted({row.category for row in self._rows}))

    def sources(self, split: Split) -> list[Source]:
        """The clips of a split that are there."""
        return [source for row in self._of(split) if (source := self._source(row, split))]

    @property
    def absent(self) -> list[Absent]:
        """Listed clips whose first frame or whose sound is not there."""
        return [
            Absent(split, "s4", row.name, "missing")
            for split in SPLITS
            for row in self._of(split)
            if not self._source(row, split)
        ]

    @property
    def lists(self) -> dict[str, Path]:
        """The list, which a store keeps a copy of."""
        return {"s4_meta_data.csv": self._list}

    def clips(self, task: int, split: Split) -> MaskedFiles:
        """The usable clips of a split, with their masks."""
        return self._with_masks(super().clips(task, split))

    def validation_clips(self) -> MaskedFiles | None:
        """The usable clips of the split ``val`` below ``root``, a store has none; None where it is evaluated on."""
        if self.evaluate_on == "val":
            return None
        found = [source for row in self._rows if row.split == "val" and (source := self._below_root(row)).there]
        faults = self._inspected(found)
        files = copy.copy(super().clips(0, "eval"))
        files.sources = [source for source in found if not faults[source.path]]
        return self._with_masks(files) if files.sources else None

    def _with_masks(self, files: Files) -> MaskedFiles:
        return MaskedFiles(files, [MaskPictures.of(source, self._path("gt_masks", source)) for source in files.sources])

    def mistakes(self) -> Iterator[str]:
        """The list must be there, and say what is needed."""
        wrong = list(super().mistakes())
        yield from wrong
        if wrong:
            return
        if not os.path.isfile(self._list):
            yield f"root: no s4_meta_data.csv in {self.root!r}; it must hold that and s4_data, as AVSBench is published"
            return
        try:
            missing = [name for name in ("train", self.evaluate_on) if all(row.split != name for row in self._rows)]
        except UserError as error:
            yield f"root: {error}"
            return
        if missing:
            yield f"root: {self._list} has no clip of {' and '.join(map(repr, missing))}"

    @cached_property
    def _list(self) -> Path:
        own = Path(self.root).expanduser() / "s4_meta_data.csv"
        kept = Path(self.store or "").expanduser() / "lists" / own.name
        return kept if self.store and os.path.isfile(kept) and not os.path.isfile(own) else own

    @cached_property
    def _rows(self) -> list[Listed]:
        """Every row of the list, numbered in its order; UserError where it is no such list."""
        try:
            with self._list.open(newline="", encoding="utf-8") as file:
                lines = list(csv.reader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{self._list}: cannot be read: {error}") from None
        header = [cell.strip().lower() for cell in lines[0]] if lines else []
        lacking = [name for name in ("category", "split") if name not in header]
        if lacking:
            raise UserError(
                f"{self._list}: no column {' and '.join(map(repr, lacking))}; must begin with a line such as "
                "name,start,category,split"
            )
        category, split = header.index("category"), header.index("split")
        found = []
        for number, line in enumerate(lines[1:]):
            if len(line) != len(header):
                raise UserError(f"{self._list}, line {number + 2}: {len(line)} cells, not {len(header)}")
            name = f"{line[split]}/{line[category]}/{line[0]}"
            try:
                below(self.root, name)
            except UserError as error:
                raise UserError(f"{self._list}, line {number + 2}: {error}") from None
            found.append(Listed(line[split], line[category], name, number))
        return found

    def _of(self, split: Split) -> list[Listed]:
        return [row for row in self._rows if row.split == ("train" if split == "train" else self.evaluate_on)]

    def _source(self, row: Listed, split: Split) -> Source | None:
        """The clip where it lies, or in the store; None where it does not."""
        if self._store:
            return self._store.find(split, row.name, self.class_names.index(row.category), 0, row.number)
        found = self._below_root(row)
        return found if found.there else None

    def _below_root(self, row: Listed) -> Extracted:
        bare = Source("", self.class_names.index(row.category), 0, row.number, row.name)
        pictures, sound = self._path("visual_frames", bare), self._path("audio_wav", bare, ".wav")
        return Extracted(pictures, bare.label, bare.task, bare.index, bare.name, self.bounds, audio=sound, first=1)

    def _path(self, kind: str, source: Source, ending: str = "") -> str:
        """Where a clip's file of one kind lies; of numbered ones with a ``*`` for the number."""
        folder = Path(self.root).expanduser() / "s4_data" / kind / source.name
        return f"{folder}{ending}" if ending else str(folder / f"{folder.name}_*.png")


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [AvsBench]
