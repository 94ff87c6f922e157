"""What every scenario of media files has in common: shape, inspection before training, one dataset."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import PositiveFloat, PositiveInt

from avcl.clip import Shape
from avcl.data.bounds import Bounds
from avcl.data.dataset import Files
from avcl.data.fingerprint import fingerprint_of
from avcl.data.preprocessing import Preprocessing
from avcl.data.source import Record, Source, inspect
from avcl.data.store.compatible import mismatches, wider
from avcl.data.store.format import Store
from avcl.errors import BadClip, UserError
from avcl.scenario import Scenario, Split
from avcl.settings import Fraction, fields
from avcl.utils.console import counted, in_threads

log = logging.getLogger(__name__)

SPLITS: tuple[Split, Split] = ("train", "eval")
ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".vob"),
    *(".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".mxf"),
)


class Absent(NamedTuple):
    """A clip that was listed and is in no dataset: ``reason`` says why, ``task`` is empty where it has none."""

    split: str
    task: str
    name: str
    reason: str


@dataclass(kw_only=True)
class FileScenario(Scenario):
    """Tasks of media files; a subclass names the tasks and lists the ``sources``.

    Args:
        frames: Frames that a sample shows, evenly spread over the window (paper: 4).
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        times: Time steps of the log-mel spectrogram, 10 ms each.
        mels: Mel bands of the spectrogram.
        window: Seconds over which the frames are spread.
        seconds: Seconds of every file that are used, from its start.
        max_pixels: Pixels of a picture at most; a clip beyond this bound or the next ones cannot be used.
        max_bytes: Bytes of a file at most.
        max_seconds: Seconds that a file lasts at most.
        max_decode_seconds: Seconds of processor time at most for decoding a clip.
        max_bad_share: Share of a task's files that may be unusable; they are skipped and named in the log.
        store: Folder that `avcl data prepare` made of these clips, read in place of the files.
        verify: Compare the store with its SHA-256 before it is used, as `avcl data check` does; all of it is read once.
    """

    frames: PositiveInt = 4
    height: PositiveInt = 224
    width: PositiveInt = 224
    times: PositiveInt = 1024
    mels: PositiveInt = 128
    window: PositiveFloat = 4.0
    seconds: PositiveFloat = 10.0
    max_pixels: PositiveInt = Bounds.pixels
    max_bytes: PositiveInt = Bounds.bytes
    max_seconds: PositiveFloat = Bounds.seconds
    max_decode_seconds: PositiveFloat = Bounds.decode_seconds
    max_bad_share: Fraction = 0.1
    store: str | None = None
    verify: bool = False

    def sources(self, split: Split) -> Sequence[Source]:
        """All files of a split, before any is checked."""
        raise NotImplementedError

    @property
    def lists(self) -> dict[str, Path]:
        """The files that say which clips there are, by their names below a root; a store keeps copies of them."""
        return {}

    @property
    def absent(self) -> list[Absent]:
        """Clips that were asked for and are not among the ``sources``."""
        return []

    @property
    def selection(self) -> dict[str, Any]:
        """The settings that decide which clips there are, whatever is read of them; a store remembers them."""
        mine = {key: value for key, value in self.settings().items() if key not in fields(FileScenario)}
        mine.pop("root", None)  # the same clips may lie anywhere
        return mine | ({"order": list(self.task_names)} if "order" in mine else {})

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label."""
        raise NotImplementedError

    def records(self) -> list[Record]:
        """All clips that are there, each once, those to pre-train on included."""
        spare: Any = self.pretraining_clips()
        listed = self._listed()
        known = {clip.source.index for clip in listed}
        more = [source for source in (spare.sources if spare else ()) if source.index not in known]
        return listed + [Record("pretraining", "", "", source) for source in more]

    @property
    def shape(self) -> Shape:
        """What every clip looks like."""
        return Shape(self.frames, self.height, self.width, self.times, self.mels)

    @property
    def preprocessing(self) -> Preprocessing:
        """How every file is read: with the published constants, and these settings."""
        return Preprocessing(**self.shape._asdict(), window=self.window, seconds=self.seconds)

    @property
    def bounds(self) -> Bounds:
        """What one clip may cost to read."""
        return Bounds(
            **{name: getattr(self, f"max_{name}") for name in ("pixels", "bytes", "seconds", "decode_seconds")}
        )

    @property
    def windowed(self) -> bool:
        """Whether files are longer than what a sample shows."""
        return self.seconds > self.window

    @property
    def refused(self) -> list[BadClip]:
        """The files that cannot be used, as far as that shows without decoding."""
        return [fault for fault in self._faults.values() if fault]

    def clips(self, task: int, split: Split) -> Files:
        """The usable files of a task; UserError where too few are left."""
        faults = self._faults
        usable = [s for s in self.sources(split) if s.task == task and not faults[s.path]]
        if not usable:
            name = self.task_names[task]
            raise UserError(f"{self.name}: task {name!r} has no usable file in its {split} split")
        return Files(usable, self.preprocessing)

    def mistakes(self) -> Iterator[str]:
        """The window must fit, and the store be whole and of these sizes."""
        if self.window > self.seconds:
            yield f"window: {self.window:g} is longer than the {self.seconds:g} seconds used of every file"
        try:
            store = self._store
        except UserError as error:
            yield f"store: {error}"
            return
        if store is None:
            return
        yield from mismatches(store, self.shape, self.window, self.seconds)
        try:
            wanted = self.selection
        except (KeyError, UserError):  # tasks that there are not: the subclass says so
            return
        yield from wider(store.facts.get("selection", {}), wanted)

    @cached_property
    def _store(self) -> Store | None:
        return None if self.store is None else Store(self.store)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the clips that are there, good or bad: split, task, name and content of each."""
        listed = self._listed()
        digests = in_threads(lambda clip: clip.source.digest(), listed, "hashing files")
        return fingerprint_of(
            (clip.split, clip.task, clip.source.name, text) for clip, text in zip(listed, digests, strict=True)
        )

    def verify_store(self) -> str:
        """Compare the store with its SHA-256, and say so; UserError has a line for each file that is damaged."""
        if self._store is None:
            return ""
        if not self._store.hashes:
            told = "has no SHA-256, as it was made by an earlier avcl; rerun `avcl data prepare` to add them"
            return f"{self.store}: {told}"
        if wrong := self._store.damage():
            raise UserError("\n".join(wrong))
        return f"{self.store}: {counted(len(self._store.hashes), 'file')} as they were made, by SHA-256"

    @cached_property
    def _verified(self) -> None:
        """Done once."""
        if self.verify:
            log.info("%s", self.verify_store())

    def _listed(self) -> list[Record]:
        """The clips of the tasks that are there."""
        tasks, classes = self.task_names, self.class_names
        return [
            Record(split, tasks[source.task], classes[source.label], source)
            for split in SPLITS
            for source in self.sources(split)
        ]

    @cached_property
    def _faults(self) -> dict[str, BadClip | None]:
        """What is wrong with each file, by its packets; UserError where too many of a task are bad."""
        listed = [source for split in SPLITS for source in self.sources(split)]
        faults = self._inspected(listed)
        for task, name in enumerate(self.task_names):
            mine = [faults[source.path] for source in listed if source.task == task]
            bad = [fault for fault in mine if fault]
            if len(bad) > self.max_bad_share * len(mine):
                raise UserError(
                    f"{self.name}: {len(bad)} of {len(mine)} files of task {name!r} cannot be used, more than "
                    f"scenario.max_bad_share = {self.max_bad_share:g} allows; the first: {bad[0]}"
                )
        return faults

    def _inspected(self, listed: Sequence[Source]) -> dict[str, BadClip | None]:
        """What is wrong with each file, by its path; the bad ones are named in the log."""
        _ = self._verified
        log.info("checking %s files", f"{len(listed):,}")
        found_out = in_threads(self._fault, listed, "checking files")
        faults = dict(zip([source.path for source in listed], found_out, strict=True))
        found = [fault for fault in faults.values() if fault]
        for fault in found:
            log.warning("skipped %s", fault)
        if found:
            log.warning("%d of %d files cannot be used", len(found), len(faults))
        return faults

    def _fault(self, source: Source) -> BadClip | None:
        try:
            inspect(source, self.window, self.seconds)
        except BadClip as fault:
            return fault
        return None
