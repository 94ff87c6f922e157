"""A scenario makes the stream of tasks; augmentation depends on nothing but seed, epoch and clip."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset, default_collate

from avcl.clip import Shape
from avcl.compat import AvalancheDataset, CLScenario, benchmark_from_datasets
from avcl.errors import BadClip
from avcl.registry import blamed
from avcl.settings import Component, Fraction

if TYPE_CHECKING:
    from avcl.data.preprocessing import Preprocessing

Split = Literal["train", "eval"]

_draw: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("draw", default=None)
_window: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("window", default=None)


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


@contextlib.contextmanager
def windowing(number: int, of: int) -> Iterator[None]:
    """Within this block items show window ``number`` of so many, evenly spread: ``window`` says which."""
    token = _window.set((number, of))
    try:
        yield
    finally:
        _window.reset(token)


def window() -> tuple[int, int] | None:
    """Which window of a recording to show in evaluation, and of how many; None for the one in the middle."""
    return _window.get()


@dataclass(kw_only=True)
class Scenario(Component):
    """Makes the stream of tasks.

    An item of its datasets is a dict: ``frames (T, 3, H, W)`` and ``mel (1, times, mels)``, float32 and
    normalised, ``index`` (the clip's number, unique in the scenario), ``label``, ``task``. An item that
    cannot be used raises BadClip; it is skipped and counted.

    Args:
        blend: Blurred task boundaries: width of the transition between neighbouring tasks, as a share of the shortest
            task's clips; 0 for sharp boundaries. Without learner.shuffle one task fades linearly into the next.
    """

    blend: Fraction = 0.0

    @property
    def shape(self) -> Shape:
        """What every clip looks like."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How recordings become such clips, which weights carry along; None where a scenario does not say."""
        return None

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

    def validation_clips(self) -> Dataset | None:
        """Clips to choose between heads by, apart from training and evaluation; None where a scenario has none."""
        return None

    @property
    def gallery_only(self) -> frozenset[int]:
        """Labels of evaluation clips that no task trains on: they are in the larger gallery alone."""
        return frozenset()

    @property
    def windowed(self) -> bool:
        """Whether an item shows a window of a longer recording, so that ``windowing`` can show others."""
        return False

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

        ``joint`` makes one training experience of all tasks' clips; evaluation stays apart. With ``blend`` the
        training experiences hold as many clips as the tasks, those near a boundary of either task.
        """
        tasks = range(len(self.task_names))
        train, held_out = [self.clips(task, "train") for task in tasks], [self.clips(task, "eval") for task in tasks]
        if joint:
            train = [ConcatDataset(train)]
        elif self.blend:
            train = blended(train, self.blend)
        return benchmark_from_datasets(train=list(map(as_avalanche, train)), eval=list(map(as_avalanche, held_out)))


def blended(tasks: Sequence[Any], width: float) -> list[Dataset]:
    """The clips of ``tasks``, each once, in as many parts of the same sizes, with transitions between them.

    Every clip moves in time by a uniform draw from a window of ``width``, a share of the shortest task: thereby the
    step from task to task becomes a linear ramp. Within a part clips keep this order.
    """
    chance, sizes = np.random.default_rng(len(tasks)), [len(task) for task in tasks]
    ends = np.cumsum(sizes)
    order = np.concatenate([end - size + chance.permutation(size) for end, size in zip(ends, sizes, strict=True)])
    moved = np.arange(len(order)) + width * min(sizes) * chance.uniform(-0.5, 0.5, len(order))
    parts = np.split(order[np.argsort(moved, kind="stable")], ends[:-1])
    return [Subset(ConcatDataset(tasks), part.tolist()) for part in parts]


def truth_of(dataset: Any) -> Callable[[int], Any] | None:
    """The method ``truth(i)`` of a dataset that knows what is to be seen and heard in its item i; else None.

    Its value has ``mask (T, H, W)`` bool, the pixels of the sounding object, and ``interval``, the first mel frame of
    the sound and the first after it. Subsets and concatenations of such datasets know it, too.
    """
    if isinstance(dataset, _Named):
        return truth_of(dataset.clips)
    if isinstance(dataset, Subset):
        of_whole, numbers = truth_of(dataset.dataset), dataset.indices
        return None if of_whole is None else lambda i: of_whole(numbers[i])
    if isinstance(dataset, ConcatDataset):
        parts, ends = [truth_of(part) for part in dataset.datasets], dataset.cumulative_sizes

        def of_part(i: int) -> Any:
            part = bisect_right(ends, i)
            known = parts[part]
            return None if known is None else known(i - (ends[part - 1] if part else 0))

        return of_part if all(parts) else None
    return getattr(dataset, "truth", None)


def as_avalanche(clips: Dataset) -> AvalancheDataset:
    """The dataset as Avalanche's streams want it: no targets, no task labels, no transform groups."""
    return AvalancheDataset([_Named(clips)], collate_fn=default_collate)


class _Named(Dataset):
    """A data set whose errors name it, and the plugin that it is from."""

    def __init__(self, clips: Any):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> Any:
        with blamed(self.clips, "__getitem__"):
            return self.clips[number]
