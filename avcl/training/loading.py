"""From a dataset of clips to batches: the resumable order, reading, collating, and the account of bad clips."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from avcl.clip import Shape
from avcl.errors import BadClip, UserError
from avcl.scenario import augmenting
from avcl.training.loader import TIMEOUT, Loader
from avcl.utils import distributed

HIDDEN = ("label", "task")
IDENTITY = 0x1D  # a stream of random numbers that nothing else draws from


@dataclass
class Batches(Sampler[list[tuple[int, int]]]):
    """The batches of one task over all its epochs, each a list of (epoch, clip number).

    The order is a function of (seed, task, epoch), or without ``shuffle`` the data set's own; every process gets
    its own share of every batch. Starts at batch ``start``, so that a stopped run goes on where it was.
    """

    clips: int
    batch_size: int
    epochs: int
    seed: int
    task: int
    drop_last: bool = True
    shuffle: bool = True
    start: int = 0

    @property
    def per_epoch(self) -> int:
        """Batches of one epoch."""
        return self.clips // self.batch_size if self.drop_last else -(-self.clips // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start // max(self.per_epoch, 1), self.epochs):
            order = np.arange(self.clips)
            if self.shuffle:
                order = np.random.default_rng((self.seed, self.task, epoch)).permutation(order)
            for number in range(self.per_epoch):
                if epoch * self.per_epoch + number >= self.start:
                    part = order[number * self.batch_size : (number + 1) * self.batch_size].tolist()
                    yield [(epoch, clip) for clip in part[distributed.share_of(len(part))]]


@dataclass
class Reader(Dataset):
    """Reads items by (epoch, clip number), augmented if there is a ``seed``; an error comes out in an item's place.

    ``blind`` leaves out label and task.
    """

    clips: Any
    seed: int | None
    blind: bool = False

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, clip = key
        draw = contextlib.nullcontext() if self.seed is None else augmenting(self.seed, epoch)
        try:
            with draw:
                item = self.clips[clip]
        except BadClip as bad:
            return bad
        except UserError as error:
            return error
        if self.blind and isinstance(item, Mapping):
            return {key: item[key] for key in item if key not in HIDDEN}
        return item


@dataclass
class Collate:
    """A batch of the good items (None if there is none; the error where one was raised) and the list of bad ones."""

    collate: Any = default_collate

    def __call__(self, items: list[Any]) -> tuple[Any, list[BadClip]]:
        """Sort the items of one batch."""
        if errors := [item for item in items if isinstance(item, UserError)]:
            return errors[0], []
        good = [item for item in items if not isinstance(item, BadClip)]
        return (self.collate(good) if good else None), [item for item in items if isinstance(item, BadClip)]


@dataclass
class Loading:
    """Makes the loaders of training and evaluation.

    ``seed`` of order and augmentation · ``workers``: processes that read clips, without influence on results ·
    ``blind``: training items have neither label nor task · ``shuffle``: False keeps the order of the data set ·
    ``timeout``: seconds to wait for a batch of the workers, 0 for ever.
    """

    batch_size: int
    eval_batch_size: int
    epochs: int
    seed: int
    drop_last: bool = True
    workers: int = 0
    blind: bool = True
    shuffle: bool = True
    pin_memory: bool = False
    timeout: float = TIMEOUT

    def order(self, clips: int, task: int, start: int = 0) -> Batches:
        """The batches of a task's ``clips``, from batch ``start``; UserError where there are none."""
        batches = Batches(
            clips=clips,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
            task=task,
            drop_last=self.drop_last,
            shuffle=self.shuffle,
            start=start,
        )
        if not batches.per_epoch:
            raise UserError(
                f"learner.batch_size: {self.batch_size} is more than the {clips} clips of a task; lower it, or set "
                "learner.drop_last=false"
            )
        return batches

    def train(self, data: Any, batches: Batches) -> DataLoader:
        """One loader for all epochs of a task, so that workers live as long as it lasts."""
        return self._loader(Reader(data, self.seed, self.blind), data.collate_fn, batches)

    def evaluate(self, data: Any) -> DataLoader:
        """Every clip once, in order, without augmentation; several processes take turns, batch by batch.

        All have as many batches, some of them maybe a last one without clips.
        """
        numbers = [(0, number) for number in range(len(data))]
        parts = range(0, len(numbers), self.eval_batch_size)
        batches = [numbers[start : start + self.eval_batch_size] for start in parts]
        rank, world = distributed.rank(), distributed.world_size()
        batches += [[]] * (-len(batches) % world)
        return self._loader(Reader(data, None), data.collate_fn, batches[rank::world])

    def identity(self, index: Tensor) -> Tensor:
        """Opaque identities (B,) of clips, by a permutation of 64-bit numbers: scenarios count task after task."""
        mixed = index.numpy().astype(np.uint64) + self._key
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64's finalizer
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return torch.from_numpy((mixed ^ (mixed >> np.uint64(31))).view(np.int64))

    def numbers(self, identity: Tensor) -> list[int]:
        """The clips' own numbers, of which ``identity`` made (B,): for messages, never for a strategy."""
        mixed = identity.cpu().numpy().view(np.uint64)
        for shift, factor in ((31, 1), (27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
            mixed = mixed * np.uint64(pow(factor, -1, 2**64))
            mixed = mixed ^ (mixed >> np.uint64(shift)) ^ (mixed >> np.uint64(2 * shift))
        numbers: list[int] = (mixed - self._key).view(np.int64).tolist()
        return numbers

    @cached_property
    def _key(self) -> np.uint64:
        return np.random.default_rng((self.seed, IDENTITY)).integers(2**64, dtype=np.uint64)

    def _loader(self, reader: Reader, collate: Any, batches: Iterable[list[tuple[int, int]]]) -> DataLoader:
        return Loader(
            reader,
            batch_sampler=batches,
            collate_fn=Collate(collate),
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            patience=self.timeout,
            # its own, so that making a loader never advances torch's global generator
            generator=torch.Generator(),
        )


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


def check_items(items: Any, shape: Shape) -> None:
    """UserError where a batch of a scenario's items is not what the learner trains on."""
    if not isinstance(items, Mapping):
        raise UserError(f"scenario: clips are a {type(items).__name__}; must be mappings of frames, mel and index")
    for key, size in shape.tensors.items():
        if key not in items:
            raise UserError(f"scenario: clips have no {key!r}, only {', '.join(map(repr, items))}")
        found = items[key]
        if found.dtype != torch.float32:
            raise UserError(f"scenario: {key} are {found.dtype}; must be normalised float32")
        if found.shape[1:] != size:
            raise UserError(f"scenario: {key} are {tuple(found.shape[1:])}; the backbone was built for {size}")
