"""Segments of clips: which patches they are, what they are called, and that a head learns to tell them."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from avcl.clip import Clip
from avcl.data.segments import Segments
from avcl.errors import UserError
from avcl.evaluation.event_localization import EventLocalization, _of_patches, _of_seconds
from avcl.evaluation.features import pooled
from avcl.evaluation.protocol import Frozen, evaluated
from avcl.testing import Noise, small_backbone

SIZES = Noise().shape.tensors  # 2 frames of 4 patches; 4 x 2 patches of sound


@dataclasses.dataclass
class Sounding(Dataset):
    """A loud stretch whose pitch is the class; ``truth`` says when."""

    split: str
    task: int

    def __len__(self):
        return 20

    def __getitem__(self, i):
        mel = 0.1 * torch.randn(SIZES["mel"], generator=torch.Generator().manual_seed(i + 100 * (self.split == "eval")))
        start, stop = self.truth(i).interval
        mel[:, start:stop, 16 * self.task : 16 * self.task + 16] += 3.0
        about = {"index": 100 * self.task + 50 * (self.split == "eval") + i, "label": self.task, "task": self.task}
        return {"frames": torch.zeros(SIZES["frames"]), "mel": mel, **about}

    def truth(self, i):
        start = 16 * (i % 3)
        return SimpleNamespace(interval=(start, start + 32), mask=None)


class Sounds(Noise):
    def clips(self, task, split):
        return Sounding(split, task)


def model(scenario=None, **settings):
    return Frozen(backbone=small_backbone(), scenario=scenario or Sounds(), **settings)


FAST = {"epochs": 20, "batch_size": 4, "lr": 1e-2, "segments": 4, "hidden": 32}


def test_a_head_tells_what_sounds_when_whatever_the_batch():
    one = evaluated(EventLocalization(**FAST), model())
    two = evaluated(EventLocalization(**FAST), model(batch_size=7, workers=2))
    assert one.scores == two.scores
    assert one.scores["accuracy"] > 85
    assert one.scores["balanced_accuracy"] > 85
    # two of four segments sound: background is the most frequent label
    assert one.chance == pytest.approx({"accuracy": 50.0, "balanced_accuracy": 100 / 3})
    assert (one.clips, one.details["segments"], one.details["labels"]) == (40, 4, 3)


def test_a_segment_is_its_audio_patches_and_the_frame_that_is_shown():
    backbone = small_backbone()
    items = [Sounds().clips(0, "eval")[number] for number in range(2)]
    clip = Clip.cut(*(torch.stack([item[key] for item in items]) for key in ("frames", "mel")), 16)
    found = _of_patches(backbone, clip, 4)
    for segment, (video, audio) in enumerate(
        [(range(4), [0, 1]), (range(4), [2, 3]), (range(4, 8), [4, 5]), (range(4, 8), [6, 7])]
    ):
        part = clip.take(torch.tensor([list(video)] * 2), torch.tensor([audio] * 2))
        torch.testing.assert_close(found[:, segment], pooled(backbone, part))
    whole = _of_patches(backbone, clip, 1)
    torch.testing.assert_close(whole[:, 0], pooled(backbone, clip))


class Own(Sounding):
    """Segments of its own: three, of which the second has the event."""

    def segments(self, i):
        draw = torch.Generator().manual_seed(i + 100 * (self.split == "eval"))
        frames = torch.randn(3, *SIZES["frames"], generator=draw)
        mel = 0.1 * torch.randn(3, *SIZES["mel"], generator=draw)
        mel[1] += 1.0 + 2 * self.task
        return Segments(frames, mel, torch.tensor([-1, self.task, -1]))


class Owns(Noise):
    def clips(self, task, split):
        return Own(split, task)


def test_a_data_set_may_have_segments_of_its_own():
    found = evaluated(EventLocalization(**FAST), model(Owns()))
    assert found.details["segments"] == 3
    assert found.scores["accuracy"] > 85
    assert found.chance["accuracy"] == pytest.approx(200 / 3)


def test_segments_are_clips_of_their_own():
    backbone, one = small_backbone(), Own("eval", 0).segments(0)
    found = _of_seconds(backbone, {key: value[None] for key, value in one._asdict().items()})
    for segment in range(3):
        alone = Clip.cut(one.frames[segment : segment + 1], one.mel[segment : segment + 1], 16)
        torch.testing.assert_close(found[0, segment], pooled(backbone, alone)[0])


def test_clips_must_tell_when_they_sound():
    told = (
        r"^event_localization: clips of scenario 'noise' have no event in time; 'ave' and 'synthetic' do: "
        r"name one with --config$"
    )
    with pytest.raises(UserError, match=told):
        EventLocalization(**FAST).evaluate(model(Noise()))


def test_segments_cannot_be_finer_than_patches():
    told = (
        r"^event_localization\.segments: invalid value 5: must be at most 4, the audio patches in time of this model$"
    )
    with pytest.raises(UserError, match=told):
        EventLocalization(**FAST | {"segments": 5}).evaluate(model())
