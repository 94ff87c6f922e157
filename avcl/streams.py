"""From a scenario to Avalanche streams; augmentation that depends on nothing but seed, epoch and clip."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Sampler, default_collate

from avcl.clip import Shape
from avcl.compat import AvalancheDataset, CLScenario, benchmark_from_datasets
from avcl.errors import BadClip, UserError
from avcl.settings import Component

Split = Literal["train", "eval"]

_draw: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("draw", default=None)


@contextlib.contextmanager
def augmenting(seed: int, epoch: int) -> Iterator[None]:
    """Within this block items are read for training: ``augmentation`` gives generators of this draw."""
    token = _draw.set((seed, epoch))
    try:
        yield
    finally:
        _draw.reset(token)


def augmentation(index: int) -> np.random.Generator | None:
    """The generator for clip ``index`` in this epoch, or None outside of training.

    A function of (seed, epoch, index) alone, so that neither the number of loader workers nor the order
    of reading changes a result.
    """
    draw = _draw.get()
    return None if draw is None else np.random.default_rng((*draw, index))


class Scenario(Component):
    """Makes the stream of tasks.

    An item of its datasets is a dict: ``frames (T, 3, H, W)`` and ``mel (1, times, mels)``, float32 and
    normalised, ``index`` (the clip's number, unique in the scenario), ``label``, ``task``. An item that
    cannot be used raises BadClip; it is skipped and counted.
    """

    @property
    def shape(self) -> Shape:
        """What every clip looks like."""
        raise NotImplementedError

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks in the order of the stream."""
        raise NotImplementedError

    def clips(self, task: int, split: Split) -> Dataset:
        """The clips of one task."""
        raise NotImplementedError

    def pretraining_clips(self) -> Dataset | None:
        """Clips of classes that are in no task, to start from; None where a scenario has none."""
        return None

    @property
    def refused(self) -> list[BadClip]:
        """Clips that were found unusable before training began, and are in no dataset."""
        return []

    @property
    def fingerprint(self) -> str | None:
        """A text that changes when a clip does, for ``run.json``; None where nothing but the settings decides."""
        return None

    @property
    def bundled_weights(self) -> Path:
        """Where weights that come with the scenario lie: ``weights/<name>.safetensors`` beside its module."""
        return Path(inspect.getfile(type(self))).parent / "weights" / f"{self.name}.safetensors"

    def benchmark(self, joint: bool = False) -> CLScenario:
        """Avalanche's view: ``train_stream`` and ``eval_stream``, one experience for each task.

        ``joint`` makes one training experience of all tasks' clips; evaluation stays apart.
        """
        tasks = range(len(self.task_names))
        train, held_out = [self.clips(task, "train") for task in tasks], [self.clips(task, "eval") for task in tasks]
        if joint:
            train = [ConcatDataset(train)]
        return benchmark_from_datasets(train=list(map(as_avalanche, train)), eval=list(map(as_avalanche, held_out)))


def as_avalanche(clips: Dataset) -> AvalancheDataset:
    """The dataset as Avalanche's streams want it: no targets, no task labels, no transform groups."""
    return AvalancheDataset([clips], collate_fn=default_collate)


@dataclass
class Batches(Sampler[list[tuple[int, int]]]):
    """The batches of one task over all its epochs, each a list of (epoch, clip number).

    The order is a function of (seed, task, epoch); every process gets its own share of every epoch. Starts
    at batch ``start``, so that a stopped run goes on where it was.
    """

    clips: int
    batch_size: int
    epochs: int
    seed: int
    task: int
    drop_last: bool = True
    rank: int = 0
    world: int = 1
    start: int = 0

    @property
    def per_epoch(self) -> int:
        """Batches of one epoch for this process."""
        mine = self.clips // self.world
        return mine // self.batch_size if self.drop_last else -(-mine // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        mine = self.clips // self.world
        for epoch in range(self.start // max(self.per_epoch, 1), self.epochs):
            order = np.random.default_rng((self.seed, self.task, epoch)).permutation(self.clips)
            order = order[self.rank :: self.world][:mine].tolist()
            for number in range(self.per_epoch):
                if epoch * self.per_epoch + number >= self.start:
                    part = order[number * self.batch_size : (number + 1) * self.batch_size]
                    yield [(epoch, clip) for clip in part]


@dataclass
class Reader(Dataset):
    """Reads items by (epoch, clip number), augmented if there is a ``seed``; a bad clip comes out as its error."""

    clips: Any
    seed: int | None

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, clip = key
        draw = contextlib.nullcontext() if self.seed is None else augmenting(self.seed, epoch)
        try:
            with draw:
                return self.clips[clip]
        except BadClip as bad:
            return bad


@dataclass
class Collate:
    """A batch of the good items (None if there is none) and the list of bad ones."""

    collate: Any = default_collate

    def __call__(self, items: list[Any]) -> tuple[Any, list[BadClip]]:
        """Sort the items of one batch."""
        good = [item for item in items if not isinstance(item, BadClip)]
        return (self.collate(good) if good else None), [item for item in items if isinstance(item, BadClip)]


class BadClips:
    """Counts the clips that could not be used; too many of them in one task end the run.

    ``reasons``: why, by path, over the whole run.
    """

    def __init__(self, allowed_share: float):
        self.allowed_share = allowed_share
        self.reasons: dict[str, str] = {}
        self._here: set[str] = set()

    def enter(self, clips: int) -> None:
        """A new dataset of so many clips begins."""
        self._here, self._clips = set(), clips

    def add(self, bad: list[BadClip]) -> list[BadClip]:
        """Note bad clips; returns those seen for the first time. UserError when there are too many."""
        new = [clip for clip in bad if clip.path not in self.reasons]
        self.reasons |= {clip.path: clip.reason for clip in new}
        self._here |= {clip.path for clip in bad}
        if bad and len(self._here) > self.allowed_share * self._clips:
            raise UserError(
                f"{len(self._here)} of {self._clips} clips of a task cannot be used, more than "
                f"learner.max_bad_share = {self.allowed_share:g} allows; the first: {bad[0]}"
            )
        return new
