"""Frozen features: hand-made pooling, the same whatever batch and workers, views, bad clips, the truth."""

import dataclasses

import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

from avcl.clip import Clip
from avcl.data.log_mel import spec_augment
from avcl.errors import UserError
from avcl.evaluation.features import View, all_clips, chosen, features, pooled, read
from avcl.evaluation.protocol import Frozen
from avcl.scenario import as_avalanche, truth_of, window
from avcl.testing import Noise, small_backbone


@pytest.fixture(scope="module")
def model():
    return Frozen(backbone=small_backbone(), scenario=Noise(clips_per_task=10), batch_size=4)


def one_by_one(model, clips):
    for number in range(len(clips)):
        item = clips[number]
        yield Clip.cut(item["frames"][None], item["mel"][None], 16)


def test_joint_features_are_the_means_of_normed_joint_tokens(model):
    clips = model.scenario.clips(0, "eval")
    found = features(model, clips).values
    for clip, row in zip(one_by_one(model, clips), found, strict=True):
        audio, video = model.backbone.tokens(clip)
        norm = model.backbone.norm
        expected = torch.cat([norm(audio)[0].sum(0) / audio.shape[1], norm(video)[0].sum(0) / video.shape[1]])
        torch.testing.assert_close(row, expected.detach())


def test_unimodal_features_are_the_embeddings(model):
    clips = model.scenario.clips(1, "eval")
    both, audio, video = (features(model, clips, kind).values for kind in ("unimodal", "audio", "video"))
    assert torch.equal(both, torch.cat([audio, video], dim=1))
    a, v = model.backbone.embed(next(one_by_one(model, clips)))
    torch.testing.assert_close((audio[0], video[0]), (a[0].detach(), v[0].detach()))


def test_batches_and_workers_change_nothing(model):
    clips = all_clips(model, "train")
    view = View(epoch=2, mask=lambda mel, draw: spec_augment(mel, draw, 0.4, 0.2))
    one = features(model, clips, view=view)
    assert one.label.tolist() == [0] * 10 + [1] * 10
    for other in (dataclasses.replace(model, batch_size=20), dataclasses.replace(model, batch_size=7, workers=2)):
        two = features(other, clips, view=view)
        torch.testing.assert_close(one.values, two.values, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(one[1:], two[1:], strict=True))


def test_a_view_is_a_function_of_seed_and_epoch(model):
    clips = model.scenario.clips(0, "train")
    plain, first, again, second = (
        features(model, clips, view=view).values for view in (View(), View(epoch=0), View(epoch=0), View(epoch=1))
    )
    other = features(dataclasses.replace(model, seed=1), clips, view=View(epoch=0)).values
    assert torch.equal(first, again)
    assert not any(torch.equal(first, one) for one in (plain, second, other))


class Windows:
    """Shows which window was asked for, as the loudness of silence."""

    def __len__(self):
        return 1

    def __getitem__(self, number):
        frames, mel = (torch.zeros(size) for size in Noise().shape.tensors.values())
        return {"frames": frames, "mel": mel + (window() or (9, 9))[0], "index": 0, "label": 0, "task": 0}


def test_windows_are_asked_for_and_only_then(model):
    seen = [
        next(read(model, Windows(), view))[1].audio[0, 0, 0].item() for view in (View(), View(window=(2, 4)), View())
    ]
    assert seen == [9, 2, 9]


def test_chosen_clips_are_the_same_every_time():
    assert chosen(range(5), None) == chosen(range(5), 7) == [0, 1, 2, 3, 4]
    assert chosen(range(100), 10) == chosen(range(100), 10) == sorted(set(chosen(range(100), 10)))
    assert len(chosen(range(100), 10)) == 10


def test_bad_clips_are_left_out_and_too_many_are_an_error(model, caplog):
    one = dataclasses.replace(model, scenario=Noise(clips_per_task=10, bad=(3,)))
    found = features(one, one.scenario.clips(0, "train"))
    assert found.number.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert "skipped train-0-3: made bad by the test" in caplog.text
    two = dataclasses.replace(model, scenario=Noise(clips_per_task=10, bad=(3, 4)))
    with pytest.raises(UserError, match=r"^scenario 'noise': 2 of 10 clips cannot be used; the last: train-0-4"):
        features(two, two.scenario.clips(0, "train"))


def test_features_of_some_patches(model):
    clip = next(one_by_one(model, model.scenario.clips(0, "eval")))
    part = clip.take(torch.tensor([[1, 2]]), torch.tensor([[0]]))
    audio, video = model.backbone.fuse(*model.backbone.encode(part))
    expected = torch.cat([model.backbone.norm(audio).mean(1), model.backbone.norm(video).mean(1)], dim=1)
    assert torch.equal(pooled(model.backbone, part), expected.detach())
    assert not pooled(model.backbone, part).requires_grad


class Told:
    """A data set that knows the truth."""

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"index": i}

    def truth(self, i):
        return f"{self.name}{i}"


def test_the_truth_is_found_through_subsets_and_joined_data_sets():
    one, two = Told("a", 3), Told("b", 2)
    joined = ConcatDataset([Subset(one, [2, 0]), two])
    truth = truth_of(Subset(joined, [3, 0, 1]))
    assert [truth(i) for i in range(3)] == ["b1", "a2", "a0"]
    named = as_avalanche(two)._datasets[0]
    assert truth_of(named)(1) == "b1"
    assert truth_of(ConcatDataset([one, [1, 2]])) is None
    assert truth_of([1, 2]) is None


def test_spec_augment_masks_a_band_and_a_stretch():
    mel = torch.ones(1, 40, 20)
    import numpy as np

    for seed in range(20):
        found = spec_augment(mel, np.random.default_rng(seed), mels=0.5, times=0.25)
        times, mels = (found[0].sum(axis) == 0 for axis in (1, 0))
        assert times.sum() < 10
        assert mels.sum() < 10
        assert found.sum() == (40 - times.sum()) * (20 - mels.sum())
        for hidden in (times, mels):
            assert hidden.int().diff().abs().sum() <= 2, "one piece"
    assert torch.equal(mel, torch.ones(1, 40, 20))
    assert torch.equal(spec_augment(mel, np.random.default_rng(0), 0, 0), mel)
