"""A scenario: clips in NumPy archives, root/<task>/<train|eval>/<clip>.npz."""

from dataclasses import dataclass
from functools import cached_property
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import DirectoryPath
from torch.utils.data import Dataset

from avcl import BadClip, Scenario, Shape, hookimpl
from avcl.scenario import augmentation


@dataclass(kw_only=True)
class NpzClips(Scenario):
    """Clips in archives of frames (T, 3, H, W) uint8, mel (times, mels) normalised, and label.

    Args:
        root: Folder of task folders.
    """

    name = "npz-clips"

    root: DirectoryPath

    def mistakes(self):
        if not self.files:
            yield f"root: no <task>/<train|eval>/<clip>.npz in {str(self.root)!r}"

    @cached_property
    def files(self):
        return sorted(self.root.glob("*/*/*.npz"))

    @property
    def task_names(self):
        return tuple(sorted({path.parts[-3] for path in self.files}))

    @property
    def shape(self):
        with np.load(self.files[0]) as clip:
            frames, _, height, width = clip["frames"].shape
            return Shape(frames, height, width, *clip["mel"].shape)

    def clips(self, task, split):
        home = self.task_names[task], split
        return Clips([(index, path, task) for index, path in enumerate(self.files) if path.parts[-3:-1] == home])


@dataclass
class Clips(Dataset):
    files: list

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        index, path, task = self.files[i]
        try:
            with np.load(path) as clip:
                frames, mel, label = clip["frames"], clip["mel"], int(clip["label"])
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise BadClip(str(path), f"corrupt: {error}") from None  # skipped and counted
        draw = augmentation(index)  # of seed, epoch and clip; None in evaluation
        if draw is not None and draw.random() < 0.5:
            frames = frames[..., ::-1]
        frames, mel = (torch.from_numpy(x.astype(np.float32)) for x in (frames, mel))
        return {"frames": frames / 127.5 - 1, "mel": mel[None], "index": index, "label": label, "task": task}


@hookimpl
def scenarios():
    return [NpzClips]
