"""A stream of random clips and a backbone of a few thousand weights: enough to try any strategy in a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from avcl.backbones.cavmae import CavMae
from avcl.clip import Shape
from avcl.errors import BadClip
from avcl.scenario import Scenario, Split, augmentation


@dataclass(kw_only=True)
class Noise(Scenario):
    """Random clips whose sound is their picture's mean, so that something can be learned.

    Args:
        tasks: Tasks of the stream.
        clips_per_task: Clips of each task and split.
        bad: Numbers of the clips of every training set that are corrupt.
        shift: Added to all labels and task ids.
    """

    name = "noise"
    tasks: int = 2
    clips_per_task: int = 16
    bad: tuple[int, ...] = ()
    shift: int = 0

    @property
    def shape(self) -> Shape:
        """Two frames of four patches each, eight patches of sound."""
        return Shape(frames=2, height=32, width=32, times=64, mels=32)

    @property
    def task_names(self) -> tuple[str, ...]:
        """``task_0``, ``task_1``, ..."""
        return tuple(f"task_{number}" for number in range(self.tasks))

    def clips(self, task: int, split: Split) -> Dataset:
        """The clips of one task, augmented by a shift of the pictures."""
        return NoiseClips(self, task, split, self.bad if split == "train" else ())


@dataclass
class NoiseClips(Dataset):
    """The clips of one task of ``Noise``."""

    scenario: Noise
    task: int
    split: Split
    bad: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.scenario.clips_per_task

    def __getitem__(self, i: int) -> dict[str, Any]:
        if i in self.bad:
            raise BadClip(f"{self.split}-{self.task}-{i}", "made bad by the test")
        index = (self.task * 2 + (self.split == "eval")) * len(self) + i
        draw, size = np.random.default_rng(index), self.scenario.shape.tensors
        frames = draw.standard_normal(size["frames"], dtype=np.float32)
        level = draw.standard_normal()
        mel = 0.1 * draw.standard_normal(size["mel"], dtype=np.float32) + level
        frames += level
        shift = augmentation(index)
        if shift is not None:
            frames = frames + np.float32(0.1 * shift.standard_normal())
        number = self.task + self.scenario.shift
        return {
            "frames": torch.from_numpy(frames.astype(np.float32)),
            "mel": torch.from_numpy(mel.astype(np.float32)),
            "index": index,
            "label": number,
            "task": number,
        }


def small_backbone(dtype: torch.dtype = torch.float32, seed: int = 0, **settings: Any) -> CavMae:
    """A CAV-MAE of a few thousand weights for clips of the scenario ``Noise``."""
    sizes = {"dim": 24, "heads": 2, "depth": 1, "fusion_depth": 1}
    decoder = {"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CavMae(size="tiny", **Noise().shape._asdict(), **(sizes | decoder | settings)).to(dtype)
