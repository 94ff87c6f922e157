"""The dataset of media files: from a list of sources to the samples that a learner reads."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from avcl.data.preprocessing import Preprocessing
from avcl.data.source import Source, inspect
from avcl.scenario import augmentation, window


class Files(Dataset):
    """Samples read from media files by their ``preprocessing``, in training with its chance."""

    def __init__(self, sources: Sequence[Source], preprocessing: Preprocessing):
        self.sources, self.preprocessing = list(sources), preprocessing

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One sample; raises BadClip where the file cannot be used."""
        source, how = self.sources[number], self.preprocessing
        chance = augmentation(source.index)
        found = inspect(source, how.window, how.seconds)
        pictures = how.read_pictures(source, found.video or 0.0, chance, window())
        wave = how.read_sound(source)
        return {
            "frames": how.to_frames(pictures, chance),
            "mel": how.to_mel(wave, chance),
            "index": source.index,
            "label": source.label,
            "task": source.task,
        }
