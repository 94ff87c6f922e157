"""A stream from published lists of clips: a YAML file says which classes make which task."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import PositiveInt

from avcl.data.dataset import Files
from avcl.data.extracted import Extracted
from avcl.data.file_scenario import SPLITS, Absent, FileScenario
from avcl.data.lists import Row, label_names, read_list
from avcl.data.source import Source
from avcl.errors import BadClip, UserError, nearest
from avcl.hookspecs import hookimpl
from avcl.scenario import Split
from avcl.scenarios.selection import Selection, list_path, media_files
from avcl.scenarios.splits import Categories, bundled, key, read_categories, wrong_order
from avcl.utils.console import counted

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Listed(FileScenario):
    """Clips named by lists of VGGSound, AudioSet, CAV-MAE or STELLA, below one folder; a new split is a YAML file.

    A clip whose labels belong to two tasks is left out; no path of a list leads out of ``root``. A store brings copies
    of the lists: with it, ``root`` need not be there.

    Args:
        root: Folder below which all files lie, however deep.
        split: YAML file of tasks and their classes, or a bundled one: continual_vs, continual_as.
        train: List of the training clips, below root; with a train/test column it may also be eval.
        eval: List of the evaluation clips, below root, or a published gallery that comes with avcl:
            continual_vs_gallery, of which no missing clip is replaced by the next one.
        labels: A class_labels_indices.csv below root; tells a class of no task from one that does not exist.
        order: Order of the stream: main, shuffled, another one of the YAML file, or a list of tasks, all or some.
        train_per_class: Training clips of a class at most, the first ones that are found (paper: 400 for VGGSound).
        eval_per_class: Evaluation clips of a class at most, the first ones that are found (paper: 5).
        gallery: Retrieve among the clips of the tasks' classes, or also among those of all classes of their categories.
        pretraining: Clips to pre-train on: unused for those of classes of no task, authors for all that
            the tasks do not train on (the STELLA authors' larger set), all for every training clip, those of the
            tasks too (the start of another stream).
        pretraining_lists: More lists to pre-train on, of clips that are in neither train nor eval.
    """

    name: ClassVar[str] = "listed"

    root: str
    split: str
    train: str
    eval: str
    labels: str | None = None
    order: str | tuple[str, ...] = "main"
    train_per_class: PositiveInt | None = None
    eval_per_class: PositiveInt | None = None
    gallery: Literal["task classes", "all"] = "task classes"
    pretraining: Literal["unused", "authors", "all"] | None = None
    pretraining_lists: tuple[str, ...] = ()

    @property
    def task_names(self) -> tuple[str, ...]:
        """``order``, spelled out."""
        return tuple(self._categories.orders[self.order] if isinstance(self.order, str) else self.order)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label, in the order of the YAML file; those of the gallery alone are the last."""
        return tuple(entry.name for _, entry in self._categories.classes())

    @property
    def gallery_only(self) -> frozenset[int]:
        """Labels of the classes that no task trains on, where ``gallery`` has them."""
        trained = sum(1 for _ in self._categories.classes(gallery=False))
        return frozenset(range(trained, len(self.class_names)) if self.gallery == "all" else ())

    def sources(self, split: Split) -> list[Source]:
        """The clips of a split that are there; their numbers and labels do not depend on ``order``."""
        return self._selection.sources[split]

    @property
    def absent(self) -> list[Absent]:
        """Clips that are missing, listed twice, of two tasks, or of an unknown class, and bad rows."""
        return self._selection.absent

    @property
    def lists(self) -> dict[str, Path]:
        """The lists by their names below the root, without those that come with avcl."""
        names = (self.train, self.eval, *((self.labels,) if self.labels else ()), *self.pretraining_lists)
        return {name: self._list(name) for name in names if name not in bundled(".csv")}

    def pretraining_clips(self) -> Files | None:
        """What ``pretraining`` says, as far as it can be used."""
        if self.pretraining is None:
            return None
        spare = self._selection.spare
        faults = self._inspected(spare)
        return Files([s for s in spare if not faults[s.path]], self.preprocessing)

    def mistakes(self) -> Iterator[str]:
        """The lists must be there, and the tasks known."""
        wrong = list(super().mistakes())
        yield from wrong
        if wrong:
            return
        if not os.path.isdir(self._root) and not self.store:
            yield f"root: {self.root!r} is no folder; it must hold the lists and the clips"
            return
        files = {"train": (self.train,), "eval": (self.eval,), "pretraining_lists": self.pretraining_lists}
        for setting, paths in (files | {"labels": (self.labels,) if self.labels else ()}).items():
            for path in (path for path in paths if not os.path.isfile(self._list(path))):
                hint = nearest(path, bundled(".csv"))
                yield f"{setting}: no file {str(self._root / path)!r}; the path counts from root{hint}"
        try:
            known = self._categories
        except UserError as error:
            yield from (f"split: {line}" for line in str(error).splitlines())
            return
        if isinstance(self.order, str):
            if self.order not in known.orders:
                yield f"order: {self.order!r} is no order of {self.split!r}{nearest(self.order, known.orders)}"
            return
        if not self.order:
            yield "order: [] has no task"
        yield from wrong_order("order", self.order, known.tasks, f"task of {self.split!r}")

    @cached_property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    def _list(self, name: str) -> Path:
        """Where a list lies: in avcl, below the root, or else in the store."""
        if own := bundled(".csv").get(name):
            return own
        return list_path(self._root, self.store, name)

    @cached_property
    def _categories(self) -> Categories:
        return read_categories(self.split)

    @cached_property
    def _labels(self) -> dict[str, str]:
        """Display names by mid, where there is a file of them."""
        return label_names(self._list(self.labels)) if self.labels else {}

    @cached_property
    def _known(self) -> set[str]:
        """Keys of all classes of the dataset; empty where nobody says so."""
        if not self._labels and not self._categories.complete:
            return set()
        named = {text for _, entry in self._categories.classes() for text in entry.keys}
        return named | {key(text) for pair in self._labels.items() for text in pair}

    @cached_property
    def _media(self) -> dict[str, str]:
        """The media files below the root by name."""
        return media_files(self._root)

    @cached_property
    def _elsewhere(self) -> list[str]:
        """Paths of clips that were not found, which the lists have outside of the root."""
        return []

    @cached_property
    def _selection(self) -> Selection:
        """Go through the lists once."""
        chosen, numbers = Selection(), count()
        labels, extra = {name: label for label, name in enumerate(self.class_names)}, self.gallery_only
        seen: dict[Split, set[str]] = {"train": set(), "eval": set()}
        lists: tuple[tuple[Split, str, int | None], ...] = (
            ("train", self.train, self.train_per_class),
            ("eval", self.eval, self.eval_per_class),
        )
        for split, path, cap in lists:
            homes = self._homes(split)
            taken: Counter[str] = Counter()
            fixed = path in bundled(".csv")  # a missing clip of a published gallery takes its place
            for index, row in zip(numbers, self._rows(path, split, chosen, seen[split]), strict=False):
                mine = list(dict.fromkeys(homes[text] for text in self._texts(row) if text in homes))
                tasks = list(dict.fromkeys(task for task, _ in mine))
                if len(tasks) > 1:
                    chosen.leave_out(split, tasks[0], row.name, f"of two tasks: {' and '.join(tasks)}")
                    continue
                if not mine:
                    self._spare(row, split, index, chosen, unused=True)
                    continue
                task, name = min(mine, key=lambda home: labels[home[1]] in extra)
                if task not in self.task_names or (cap is not None and taken[name] >= cap):
                    self._spare(row, split, index, chosen, unused=False)
                    continue
                source = self._source(row, split, labels[name], self.task_names.index(task), index)
                taken[name] += fixed or source is not None
                if source is None:
                    chosen.leave_out(split, task, row.name, "missing")
                    continue
                chosen.sources[split].append(source)
                if self.pretraining == "all":
                    self._spare(row, split, index, chosen, unused=False)
        known = seen["train"] | {source.name for source in chosen.sources["eval"]}
        self._add_pretraining_lists(chosen, numbers, known)
        self._tell(chosen)
        return chosen

    def _homes(self, split: str) -> dict[str, tuple[str, str]]:
        """The task and the class of every label that counts in a split."""
        listed = self._categories.classes(gallery=split == "eval" and self.gallery == "all")
        return {text: (task, entry.name) for task, entry in listed for text in entry.keys}

    def _texts(self, row: Row) -> Iterator[str]:
        """Every key of a row's labels: as they are, and by the display name where there is a file of them."""
        for label in row.labels:
            yield key(label)
            if label in self._labels:
                yield key(self._labels[label])

    def _rows(self, path: str, split: str, chosen: Selection, seen: set[str]) -> Iterator[Row]:
        """The rows of a list that belong to a split, without those whose names were ``seen``."""
        other = "train" if split == "eval" else "eval"
        shared = split != "pretraining" and self._list(self.train).resolve() == self._list(self.eval).resolve()
        good = 0
        first: BadClip | None = None
        for row in read_list(self._list(path), self._root):
            if isinstance(row, BadClip):
                first = first or row
                chosen.leave_out(split, "", row.path, f"bad row: {row.reason}")
                continue
            good += 1
            if row.split is None and shared:
                told = "does not say train or test for every clip; name two lists"
                raise UserError(f"{self.name}: {path!r} is both train and eval, but {told}")
            if row.split == other:
                continue
            foreign = self._known and split != "pretraining"  # what no task knows is good to pre-train on
            unknown = [text for text in row.labels if foreign and key(text) not in self._known]
            if row.name in seen:
                chosen.leave_out(split, "", row.name, "listed twice")
            elif unknown:
                chosen.leave_out(split, "", row.name, f"unknown class {unknown[0]!r}")
            else:
                seen.add(row.name)
                yield row
        if not good and first:
            raise UserError(f"{self.name}: no row can be used; {first}")

    def _source(self, row: Row, split: str, label: int, task: int, index: int) -> Source | None:
        """The clip where it lies, None where it does not."""
        if self._store:
            kept = ("pretraining", "train") if split == "pretraining" else (split,)  # a clip is kept once
            return next(filter(None, (self._store.find(one, row.name, label, task, index) for one in kept)), None)
        if row.pictures:
            found = Extracted(row.pictures, label, task, index, row.name, self.bounds, audio=row.audio, rate=row.rate)
            if found.there:
                return found
        path = next((self._media[stem] for stem in row.stems if stem in self._media), "")
        if row.elsewhere and not path:
            self._elsewhere.append(row.elsewhere)
        return Source(path, label, task, index, row.name, self.bounds) if path else None

    def _spare(self, row: Row, split: str, index: int, chosen: Selection, unused: bool) -> None:
        """Keep a clip where pre-training wants it; ``unused``: it is of no task."""
        if split == "train" and (self.pretraining in ("authors", "all") or (self.pretraining == "unused" and unused)):
            source = self._source(row, "pretraining", -1, -1, index)
            if source is None:
                chosen.leave_out("pretraining", "", row.name, "missing")
            else:
                chosen.spare.append(source)

    def _add_pretraining_lists(self, chosen: Selection, numbers: Iterator[int], seen: set[str]) -> None:
        homes = self._homes("train")
        for path in self.pretraining_lists if self.pretraining else ():
            for index, row in zip(numbers, self._rows(path, "pretraining", chosen, seen), strict=False):
                unused = not any(text in homes for text in self._texts(row))
                self._spare(row, "train", index, chosen, unused)

    def _tell(self, chosen: Selection) -> None:
        """Log what is missing; UserError where nothing was found."""
        chosen.warn()
        if far := self._elsewhere:
            told = f"{counted(len(far), 'clip')} by paths outside of root, which are not read"
            log.warning("the lists have %s; the first: %s; choose a root above them", told, far[0])
        for split in SPLITS:
            there = {self.class_names[source.label] for source in chosen.sources[split]}
            names = [entry.name for task in self.task_names for entry in self._categories.tasks[task].classes]
            bare = [name for name in names if name not in there]
            if bare:
                log.warning("%d of %d classes have no clip of %s; the first: %s", len(bare), len(names), split, bare[0])
            if (missing := chosen.missing(split)) and not self.store and not chosen.sources[split]:
                listed = f"none of the {missing} clips of {split} ({getattr(self, split)})"
                raise UserError(
                    f"{self.name}: {listed} is below {self._root}; video files are found "
                    f"by names such as <id>_<seconds in 6 digits>.mp4 or <id>_<ms>_<ms>.mp4"
                )


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [Listed]
