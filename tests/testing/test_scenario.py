"""Bundled scenarios keep the promises, and each promise catches the one who breaks it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from helpers.miniature import of_videos, videos
from torch.utils.data import Dataset

from avcl import Preprocessing, Scenario
from avcl.scenario import augmentation
from avcl.scenarios.synthetic import Synthetic
from avcl.testing import Noise, check_scenario
from avcl.testing import scenario as testing


def test_random_clips_and_rendered_ones_keep_every_promise():
    check_scenario(Noise)
    check_scenario(lambda: Noise(bad=(3,)))
    check_scenario(lambda: Synthetic(tasks=2, classes=2, train_clips=4, eval_clips=2, pretraining=8))


def test_a_folder_of_videos_keeps_every_promise(tmp_path):
    root = videos(tmp_path)
    check_scenario(lambda: of_videos(root))


# ---- who breaks what ---------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Offender(Noise):
    """Random clips, each changed by ``change``."""

    name = "offender"
    clips_per_task: int = 4

    def clips(self, task, split):
        return Changed(self, super().clips(task, split), split)

    def change(self, item, split) -> Any:
        return item


@dataclass
class Changed(Dataset):
    scenario: Offender
    of: Dataset
    split: str
    reads: int = 0

    def __len__(self):
        return len(self.of)

    def __getitem__(self, number):
        self.reads += 1
        return self.scenario.change(self.of[number] | {"reads": self.reads}, self.split)


def test_the_innocent_one_passes():
    check_scenario(Plain)


class Plain(Offender):
    def change(self, item, split):
        return {key: item[key] for key in testing.KEYS}


def changing(**parts):
    """An offender whose items have other ``parts``: functions of an item."""

    class Item(Plain):
        def change(self, item, split):
            return super().change(item, split) | {key: part(item) for key, part in parts.items()}

    return Item


class Tuples(Offender):
    def change(self, item, split):
        return item["frames"], item["mel"]


class LacksMel(Offender):
    def change(self, item, split):
        return {"frames": item["frames"], "index": item["index"]}


class CountsReads(Plain):
    def change(self, item, split):
        return super().change(item, split) | {"frames": item["frames"] + item["reads"] / 100}


class ShufflesAugmentation(Plain):
    def change(self, item, split):
        noise = 0.0 if augmentation(item["index"]) is None else np.random.default_rng().standard_normal()
        return super().change(item, split) | {"frames": item["frames"] + np.float32(noise)}


class DrawsForNothing(Plain):
    def change(self, item, split):
        random.random()
        return super().change(item, split)


class DiffersPerObject(Plain):
    def __post_init__(self):
        super().__post_init__()
        self.level = random.SystemRandom().random()

    def change(self, item, split):
        return super().change(item, split) | {"mel": item["mel"] + self.level}


class HoldsAFunction(Plain):
    def __post_init__(self):
        super().__post_init__()
        self.function = lambda item: item


class ForgetsOnTheWay(Plain):
    def __post_init__(self):
        super().__post_init__()
        self.level = 1.0

    def __getstate__(self):
        return vars(self) | {"level": 2.0}

    def change(self, item, split):
        return super().change(item, split) | {"mel": item["mel"] + self.level}


class OtherPreprocessing(Plain):
    preprocessing = Preprocessing()


@dataclass(kw_only=True)
class TakesAnything(Plain):
    level: Any = 1.0


@dataclass(kw_only=True)
class NoShape(Plain):
    shape = Scenario.shape


class TwinTasks(Plain):
    task_names = ("one", "one")


class EmptySplit(Plain):
    def clips(self, task, split):
        return [] if split == "eval" else super().clips(task, split)


class NewPrint(Plain):
    @property
    def fingerprint(self):
        return str(id(self))


class OneExperience(Plain):
    def benchmark(self, joint=False):
        return super().benchmark(joint=True)


STREAM, CLIPS, NUMBERS = testing.defines_its_stream, testing.yields_float32_clips, testing.numbers_its_clips
FLOAT = "must be a float32 tensor, normalised"
CAUGHT = {
    "any setting": (TakesAnything, testing.refuses_invalid_settings, "level takes anything"),
    "no shape": (NoShape, STREAM, "missing: shape"),
    "two tasks of a name": (TwinTasks, STREAM, "task_names ('one', 'one') are not unique"),
    "an empty split": (EmptySplit, STREAM, "eval split of 'task_0' holds no clip"),
    "another fingerprint": (NewPrint, STREAM, "fingerprint differs between two scenarios of the same settings"),
    "preprocessing of other clips": (
        OtherPreprocessing,
        STREAM,
        "preprocessing makes clips of Shape(frames=4, height=224, width=224, times=1024, mels=128), not of Shape(fr",
    ),
    "one experience": (OneExperience, STREAM, "benchmark() has 1 experiences for 2 tasks"),
    "tuples": (Tuples, CLIPS, "a clip is a tuple; must be a mapping with frames, mel, index, label, task"),
    "no mel": (LacksMel, CLIPS, "train split of 'task_0': a clip has no mel, label, task; must have frames, mel"),
    "uint8": (changing(frames=lambda item: item["frames"].byte()), CLIPS, f"frames are torch.uint8; {FLOAT}"),
    "float64": (changing(mel=lambda item: item["mel"].double()), CLIPS, f"mel are torch.float64; {FLOAT}"),
    "an array": (changing(mel=lambda item: item["mel"].numpy()), CLIPS, f"mel are of the type ndarray; {FLOAT}"),
    "channels last": (
        changing(frames=lambda item: item["frames"].permute(0, 2, 3, 1)),
        CLIPS,
        "frames are (2, 32, 32, 3); shape promises (2, 3, 32, 32)",
    ),
    "no channel": (changing(mel=lambda item: item["mel"][0]), CLIPS, "mel are (64, 32); shape promises (1, 64, 32)"),
    "not a number": (changing(mel=lambda item: item["mel"] * torch.nan), CLIPS, "mel hold values that are not finite"),
    "0 to 255": (changing(frames=lambda item: 99 * item["frames"]), CLIPS, "must be normalised"),
    "a name for a label": (changing(label=lambda item: "dog"), CLIPS, "label is 'dog'; must be an integer"),
    "numbers by task": (changing(index=lambda item: item["index"] % 8), NUMBERS, "both hold a clip of index 0"),
    "another task": (
        changing(task=lambda item: item["task"] + 1),
        NUMBERS,
        "train split of 'task_0': a clip says that it is of task 1",
    ),
    "counts reads": (CountsReads, testing.is_deterministic, "a clip differs when it is read again; draw from avcl."),
    "own augmentation": (ShufflesAugmentation, testing.is_deterministic, "is read again in the same epoch"),
    "draws for nothing": (DrawsForNothing, testing.is_deterministic, "reading draws from a global generator"),
    "another object": (DiffersPerObject, testing.is_deterministic, "from a scenario of the same settings"),
    "holds a function": (HoldsAFunction, testing.reads_in_workers, "ickle"),
    "forgets on the way": (ForgetsOnTheWay, testing.reads_in_workers, "'task_0': a copy reads other clips"),
}


@pytest.mark.parametrize("what", CAUGHT)
def test_who_breaks_a_promise_is_caught(caught, what):
    caught(check_scenario, *CAUGHT[what])


def test_every_promise_has_an_offender():
    assert {promise for _, promise, _ in CAUGHT.values()} == set(testing.PROMISES)
