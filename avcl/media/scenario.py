"""What every scenario of media files has in common: shape, inspection before training, one dataset."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from avcl.clip import Shape
from avcl.errors import BadClip, UserError
from avcl.media.files import Files, Source, inspect
from avcl.settings import Count, Fraction, Positive
from avcl.streams import Scenario, Split

log = logging.getLogger(__name__)

SPLITS: tuple[Split, Split] = ("train", "eval")


@dataclass(kw_only=True)
class FromFiles(Scenario):
    """Tasks of media files; a subclass names the tasks and lists the ``sources``.

    ``frames``, ``height``, ``width``: what of a video a sample shows · ``times``, ``mels``: the size of its
    log-mel spectrogram, 10 ms for each of the times · ``window``: seconds over which the frames are spread ·
    ``seconds``: how much of every file is used, from its start · ``max_bad_share``: share of a task's files
    that may be unusable; they are skipped and named in the log.
    """

    frames: Count = 4
    height: Count = 224
    width: Count = 224
    times: Count = 1024
    mels: Count = 128
    window: Positive = 4.0
    seconds: Positive = 10.0
    max_bad_share: Fraction = 0.1

    def sources(self, split: Split) -> Sequence[Source]:
        """All files of a split, before anybody looked into them."""
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
        """The window must fit."""
        if self.window > self.seconds:
            yield f"window: {self.window:g} is longer than the {self.seconds:g} seconds used of every file"

    @cached_property
    def _faults(self) -> dict[str, BadClip | None]:
        """What is wrong with each file, by its packets; UserError where too many of a task are bad."""
        listed = [source for split in SPLITS for source in self.sources(split)]
        log.info("looking into %d files", len(listed))
        with ThreadPoolExecutor() as pool:
            paths = [source.path for source in listed]
            faults = dict(zip(paths, pool.map(self._fault, paths), strict=True))
        found = [fault for fault in faults.values() if fault]
        for fault in found:
            log.warning("skipped %s", fault)
        if found:
            log.warning("%d of %d files cannot be used", len(found), len(faults))
        for task, name in enumerate(self.task_names):
            mine = [faults[source.path] for source in listed if source.task == task]
            bad = [fault for fault in mine if fault]
            if len(bad) > self.max_bad_share * len(mine):
                raise UserError(
                    f"{self.name}: {len(bad)} of {len(mine)} files of task {name!r} cannot be used, more than "
                    f"scenario.max_bad_share = {self.max_bad_share:g} allows; the first: {bad[0]}"
                )
        return faults

    def _fault(self, path: str) -> BadClip | None:
        try:
            inspect(path, self.window, self.seconds)
        except BadClip as fault:
            return fault
        return None
