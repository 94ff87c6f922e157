"""The promises of a scenario, checked on a few clips of every task, with pytest or without."""

from __future__ import annotations

import contextlib
import operator
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from avcl.clip import Shape
from avcl.data.preprocessing import Preprocessing
from avcl.errors import BadClip
from avcl.scenario import Scenario, Split, augmenting
from avcl.testing.promises import Promise, global_state, keep, random_state, refuses_invalid_settings, require, same

Make = Callable[[], Scenario]

MOST = 8
"""Clips that are read of each task and split, evenly spread."""

KEYS = ("frames", "mel", "index", "label", "task")
SPLITS: tuple[Split, Split] = ("train", "eval")


def check_scenario(make: type[Scenario] | Make, promises: Sequence[Promise] = ()) -> None:
    """BrokenPromise, which says what was found, at the first of ``promises`` that is broken; all by default.

    ``make`` is a scenario class, or a function that makes a new one every time, with the settings to be
    checked: of little data, as a dozen of them are made. A few clips of every task and split are read, several
    times each.
    """
    keep(Scenario, make, promises or PROMISES)


def defines_its_stream(make: Make) -> None:
    """defines shape, unique task names, and clips of every task and split"""
    part = make()
    missing = [key for key in ("shape", "task_names", "clips") if getattr(type(part), key) is getattr(Scenario, key)]
    require(not missing, f"missing: {', '.join(missing)}")
    shape, names = part.shape, part.task_names
    require(isinstance(shape, Shape), f"shape is a {type(shape).__name__}; must be an avcl.Shape")
    require(all(isinstance(n, int) and n > 0 for n in shape), f"{shape}: sizes must be integers greater than 0")
    named = isinstance(names, tuple) and names and all(isinstance(name, str) and name for name in names)
    require(named, f"task_names is {names!r}; must be a tuple of names")
    require(len(set(names)) == len(names), f"task_names {names} are not unique")
    for where, clips in _datasets(part):
        require(len(clips) > 0, f"{where} holds no clip")  # type: ignore[arg-type]
    require(all(isinstance(clip, BadClip) for clip in part.refused), "refused holds what is no BadClip")
    prints = part.fingerprint, make().fingerprint
    kind = type(prints[0]).__name__
    require(isinstance(prints[0], str | None), f"fingerprint is a {kind}; must be a text or None")
    require(prints[0] == prints[1], "fingerprint differs between two scenarios of the same settings")
    said = part.preprocessing
    require(
        said is None or isinstance(said, Preprocessing), "preprocessing is no avcl.Preprocessing; must be one or None"
    )
    require(said is None or said.shape == shape, f"preprocessing makes clips of {said and said.shape}, not of {shape}")
    streams = part.benchmark()
    for stream in (streams.train_stream, streams.eval_stream):
        require(len(stream) == len(names), f"benchmark() has {len(stream)} experiences for {len(names)} tasks")


def yields_float32_clips(make: Make) -> None:
    """yields mappings of float32 frames (T, 3, H, W), float32 mel (1, times, mels), index, label and task"""
    part = make()
    for where, clips in _datasets(part):
        items = [item for item in _read(clips, where) if not isinstance(item, _Corrupt)]
        for item in items:
            for wrong in misfits(item, part.shape):
                require(False, f"{where}: {wrong}")
        require(items, f"{where}: every clip that was read is corrupt")
        batch = default_collate(items)
        for key in ("frames", "mel"):
            deviation, mean = torch.std_mean(batch[key])
            found = f"{where}: {key} have mean {mean:.3g} and standard deviation {deviation:.3g}; must be normalised"
            require(abs(mean) < 5 and 0.01 < deviation < 10, found)


def numbers_its_clips(make: Make) -> None:
    """gives every clip an index of its own, and its task's place in task_names"""
    part, owner = make(), dict[int, str]()
    for where, clips in _datasets(part):
        for item in _read(clips, where):
            if isinstance(item, _Corrupt):
                continue
            index, task = int(item["index"]), int(item["task"])
            require(index not in owner, f"{where} and {owner.get(index)} both hold a clip of index {index}")
            require(where.task in (None, task), f"{where}: a clip says that it is of task {task}")
            owner[index] = str(where)


def is_deterministic(make: Make) -> None:
    """deterministic: a clip is a function of seed, epoch and index, not of earlier reads or global random state"""
    one, two = make(), make()
    for (where, clips), (_, others) in zip(_datasets(one), _datasets(two), strict=True):
        for draw in (None, (0, 0), (0, 1)):
            with random_state(1):
                before = global_state()
                first = _read(clips, where, draw)
                require(same(global_state(), before), f"{where}: reading draws from a global generator")
            with random_state(2):
                again = _read(clips, where, draw, backwards=True)
                anew = _read(others, where, draw, backwards=True)
            told = f"{where}: a clip differs when it is read again{' in the same epoch' if draw else ''}"
            require(same(first, again), f"{told}; draw from avcl.scenario.augmentation(index)")
            require(same(first, anew), f"{told}, from a scenario of the same settings")


def reads_in_workers(make: Make) -> None:
    """can be pickled for loader processes, which read the same clips"""
    for where, clips in _datasets(make()):
        copy = pickle.loads(pickle.dumps(clips))
        require(same(_read(clips, where, (0, 0)), _read(copy, where, (0, 0))), f"{where}: a copy reads other clips")


PROMISES: tuple[Promise, ...] = (
    refuses_invalid_settings,
    defines_its_stream,
    yields_float32_clips,
    numbers_its_clips,
    is_deterministic,
    reads_in_workers,
)
"""What every scenario keeps."""


def misfits(item: Any, shape: Shape) -> Iterator[str]:
    """What is wrong with an item of a dataset, line by line; nothing where it is what ``Scenario`` asks for."""
    if not isinstance(item, Mapping):
        yield f"a clip is a {type(item).__name__}; must be a mapping with {', '.join(KEYS)}"
        return
    missing = [key for key in KEYS if key not in item]
    if missing:
        yield f"a clip has no {', '.join(missing)}; must have {', '.join(KEYS)}"
        return
    for key, size in shape.tensors.items():
        value = item[key]
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            found = value.dtype if isinstance(value, Tensor) else f"of the type {type(value).__name__}"
            yield f"{key} are {found}; must be a float32 tensor, normalised"
        elif value.shape != size:
            yield f"{key} are {tuple(value.shape)}; shape promises {size}"
        elif not bool(torch.isfinite(value).all()):
            yield f"{key} hold values that are not finite"
    for key in KEYS[2:]:
        try:
            operator.index(item[key])
        except TypeError:
            yield f"{key} is {item[key]!r}; must be an integer"


class _Where(NamedTuple):
    """Whose clips: the split, and the task's name and place; a pre-training set is of no task."""

    split: str
    name: str = ""
    task: int | None = None

    def __str__(self) -> str:
        return f"{self.split} split of {self.name!r}" if self.name else self.split


class _Corrupt(NamedTuple):
    """In place of a clip that cannot be used: why."""

    reason: str


def _datasets(part: Scenario) -> Iterator[tuple[_Where, Dataset]]:
    """Every dataset of the scenario."""
    for task, name in enumerate(part.task_names):
        for split in SPLITS:
            yield _Where(split, name, task), part.clips(task, split)
    extra = part.pretraining_clips()
    if extra is not None and len(extra):  # type: ignore[arg-type]
        yield _Where("pretraining_clips()"), extra


def _read(clips: Dataset, where: _Where, draw: tuple[int, int] | None = None, backwards: bool = False) -> list[Any]:
    """A few clips as a learner reads them, in their order; augmented by (seed, epoch) unless for evaluation."""
    length = len(clips)  # type: ignore[arg-type]
    numbers = sorted({place * length // MOST for place in range(MOST)})
    chance = contextlib.nullcontext() if draw is None or where.split == "eval" else augmenting(*draw)
    found: dict[int, Any] = {}
    with chance:
        for number in reversed(numbers) if backwards else numbers:
            try:
                found[number] = clips[number]
            except BadClip as bad:
                found[number] = _Corrupt(str(bad))
    return [found[number] for number in numbers]
