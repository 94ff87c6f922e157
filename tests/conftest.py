"""Small real parts that many tests share: a stream of random clips, a backbone of a few thousand weights."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from avcl.backbones.cavmae import CavMae
from avcl.clip import Shape
from avcl.errors import BadClip
from avcl.learner import Learner
from avcl.memory import Memory
from avcl.streams import Scenario, augmentation

torch.set_num_threads(1)


class NoiseClips(Dataset):
    """Random clips whose sound is its picture's mean, so that something can be learned; augmented by a shift."""

    def __init__(self, scenario, task, split, bad=()):
        self.scenario, self.task, self.split, self.bad = scenario, task, split, bad

    def __len__(self):
        return self.scenario.clips_per_task

    def __getitem__(self, i):
        if i in self.bad:
            raise BadClip(f"{self.split}-{self.task}-{i}", "made bad by the test")
        index = (self.task * 2 + (self.split == "eval")) * len(self) + i
        draw = np.random.default_rng(index)
        shape = self.scenario.shape
        frames = draw.standard_normal((shape.frames, 3, shape.height, shape.width), dtype=np.float32)
        level = draw.standard_normal()
        mel = 0.1 * draw.standard_normal((1, shape.times, shape.mels), dtype=np.float32) + level
        frames += level
        shift = augmentation(index)
        if shift is not None:
            frames = frames + np.float32(0.1 * shift.standard_normal())
        return {
            "frames": torch.from_numpy(frames.astype(np.float32)),
            "mel": torch.from_numpy(mel.astype(np.float32)),
            "index": index,
            "label": self.task,
            "task": self.task,
        }


@dataclass(kw_only=True)
class Noise(Scenario):
    """The scenario of the tests; ``bad`` clips of every training set cannot be read."""

    name = "noise"
    tasks: int = 2
    clips_per_task: int = 16
    bad: tuple[int, ...] = ()

    @property
    def shape(self):
        return Shape(frames=2, height=32, width=32, times=64, mels=32)

    @property
    def task_names(self):
        return tuple(f"task_{number}" for number in range(self.tasks))

    def clips(self, task, split):
        return NoiseClips(self, task, split, self.bad if split == "train" else ())


def small_backbone(dtype=torch.float32, seed=0, **settings):
    """A CAV-MAE of a few thousand weights for clips of the Noise scenario."""
    torch.manual_seed(seed)
    few = {"dim": 24, "heads": 2, "depth": 1, "fusion_depth": 1, "decoder_dim": 16, "decoder_heads": 2}
    return CavMae(**Noise().shape._asdict(), **({"size": "tiny", "decoder_depth": 1} | few | settings)).to(dtype)


@pytest.fixture
def noise():
    """Two tasks of 16 clips."""
    return Noise()


@pytest.fixture
def make_learner():
    """A learner on a small backbone: ``make_learner(strategy, dtype=..., **settings)``."""

    def make(strategy, dtype=torch.float32, seed=0, **settings):
        defaults = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "seed": seed}
        return Learner(backbone=small_backbone(dtype, seed), strategy=strategy, **(defaults | settings))

    return make


@pytest.fixture
def small_memory():
    """A memory of 8 clips in the dtype asked for."""
    return lambda dtype="float32", capacity=8: Memory(capacity=capacity, dtype=dtype)
