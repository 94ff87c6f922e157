"""What every scenario of media files has in common: shape, inspection before training, one dataset."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction as Rational
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from avcl.clip import Shape
from avcl.data import transforms, windows
from avcl.data.dataset import Files, Source, inspect
from avcl.data.fingerprint import fingerprint
from avcl.data.store.format import Store
from avcl.errors import BadClip, UserError
from avcl.scenario import Scenario, Split
from avcl.settings import Count, Fraction, Positive, fields
from avcl.utils.console import in_threads

log = logging.getLogger(__name__)

SPLITS: tuple[Split, Split] = ("train", "eval")
ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".mpg", ".mpeg", ".vob"),
    *(".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv", ".mxf"),
)

FASTEST = 240  # frames a second that a store may have
# Settings that choose clips: those in words by how much they choose, the least first; at most so many; by name.
RANKS: dict[str, tuple[str | None, ...]] = {
    "gallery": ("task classes", "all"),
    "pretraining": (None, "unused", "authors"),
}
CAPS = ("train_per_class", "eval_per_class")
LISTS = ("order", "pretraining_lists")


class Absent(NamedTuple):
    """A clip that was listed and is in no dataset: ``reason`` says why, ``task`` is empty where it has none."""

    split: str
    task: str
    name: str
    reason: str


@dataclass(kw_only=True)
class FromFiles(Scenario):
    """Tasks of media files; a subclass names the tasks and lists the ``sources``.

    ``frames``, ``height``, ``width``: what of a video a sample shows · ``times``, ``mels``: the size of its
    log-mel spectrogram, 10 ms for each of the times · ``window``: seconds over which the frames are spread ·
    ``seconds``: how much of every file is used, from its start · ``max_bad_share``: share of a task's files
    that may be unusable; they are skipped and named in the log · ``store``: a folder that ``avcl data prepare``
    made of these clips, to be read in place of the files.
    """

    frames: Count = 4
    height: Count = 224
    width: Count = 224
    times: Count = 1024
    mels: Count = 128
    window: Positive = 4.0
    seconds: Positive = 10.0
    max_bad_share: Fraction = 0.1
    store: str | None = None

    def sources(self, split: Split) -> Sequence[Source]:
        """All files of a split, before anybody looked into them."""
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
        mine = {key: value for key, value in self.settings().items() if key not in fields(FromFiles)}
        mine.pop("root", None)  # the same clips may lie anywhere
        return mine | ({"order": list(self.task_names)} if "order" in mine else {})

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes by label."""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        """What every clip looks like."""
        return Shape(self.frames, self.height, self.width, self.times, self.mels)

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
        return Files(usable, self.shape, self.window, self.seconds)

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
        form = store.form
        size = transforms.store_size(self.height, self.width)
        if (form.height, form.width) != size:
            kept = f"{form.height} x {form.width}"
            yield f"store: its frames are {kept}; {size[0]} x {size[1]} are needed for height and width"
        if form.seconds < self.seconds:
            yield f"store: has {form.seconds:g} seconds of every clip; seconds asks for {self.seconds:g}"
        needed = grid_rate(self.seconds, self.window, self.frames)
        if needed > FASTEST:
            yield "store: no rate has all moments that frames and window ask for; change them, or read the files"
        elif not is_multiple(form.rate, needed):
            lacks = f"has {form.rate:g} frames a second; frames and window need {needed:g}"
            yield f"store: {lacks}: prepare with --rate {needed:g}"
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
        listed = [(split, source) for split in SPLITS for source in self.sources(split)]
        digests = list(in_threads(lambda pair: pair[1].digest(), listed, "taking the data's fingerprint"))
        names = [(split, self.task_names[source.task], source.name) for split, source in listed]
        return fingerprint((*name, text) for name, text in zip(names, digests, strict=True))

    @cached_property
    def _faults(self) -> dict[str, BadClip | None]:
        """What is wrong with each file, by its packets; UserError where too many of a task are bad."""
        listed = [source for split in SPLITS for source in self.sources(split)]
        faults = self._looked_into(listed)
        for task, name in enumerate(self.task_names):
            mine = [faults[source.path] for source in listed if source.task == task]
            bad = [fault for fault in mine if fault]
            if len(bad) > self.max_bad_share * len(mine):
                raise UserError(
                    f"{self.name}: {len(bad)} of {len(mine)} files of task {name!r} cannot be used, more than "
                    f"scenario.max_bad_share = {self.max_bad_share:g} allows; the first: {bad[0]}"
                )
        return faults

    def _looked_into(self, listed: Sequence[Source]) -> dict[str, BadClip | None]:
        """What is wrong with each file, by its path; the bad ones are named in the log."""
        log.info("looking into %s files", f"{len(listed):,}")
        found_out = in_threads(self._fault, listed, "looking into files")
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


def grid_rate(seconds: float, window: float, frames: int) -> float:
    """The least frames a second of a store that has every moment of every window in clips of ``seconds``."""
    steps = [Rational(window).limit_denominator(10_000) / frames] if frames > 1 else []
    if windows.room(seconds, window) > 1 or not steps:  # else every window is the first
        steps.append(Rational(windows.STEP))
    below = math.lcm(*(step.denominator for step in steps))
    return below / math.gcd(*(int(step * below) for step in steps))


def is_multiple(rate: float, needed: float) -> bool:
    """Whether a store of ``rate`` has all moments of one of ``needed``."""
    return rate > needed / 2 and abs(rate / needed - round(rate / needed)) < 1e-5  # 3.33333 is 10 / 3


def wider(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """A line for each setting that asks for clips which a store that was prepared with ``had`` need not have."""
    for name in (name for name in had if name in wanted):
        one, other, ranks = had[name], wanted[name], RANKS.get(name, ())
        more = name == "eval_share" and other != one
        if one in ranks and other in ranks:
            more = ranks.index(other) > ranks.index(one)
        elif name in CAPS and isinstance(one, int):
            more = other is None or other > one
        elif name in LISTS and isinstance(one, list) and isinstance(other, list):
            other = [part for part in other if part not in one]
            more = bool(other)
        if name == "train_per_class" and wanted.get("pretraining") == "authors":
            more = other != one  # what the tasks do not train on is to be pre-trained on, and was kept as that
        if more:
            told = f"was prepared with {name} = {_shown(one)}; {_shown(other)} is asked for"
            yield f"store: {told}: prepare again with it"


def _shown(value: Any) -> str:
    """As YAML has it."""
    return "null" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
