"""Batches, augmentation and bad clips: what a stream promises."""

import multiprocessing

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset

from avcl.errors import BadClip, UserError
from avcl.scenario import _Named, augmentation, augmenting, blended, truth_of
from avcl.testing.toys import Noise, NoiseClips
from avcl.training.loading import BadClips, Batches, Collate, Reader
from avcl.utils import distributed


def test_augmentation_is_a_function_of_seed_epoch_and_clip():
    def draw(seed, epoch, index):
        with augmenting(seed, epoch):
            return augmentation(index).integers(1 << 40)

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(0, 2, 3), draw(1, 0, 3), draw(1, 2, 0)}) == 4
    assert augmentation(3) is None


def batches(clips, batch_size, epochs=1, **settings):
    return Batches(clips=clips, batch_size=batch_size, epochs=epochs, **({"seed": 0, "task": 0} | settings))


def test_every_epoch_visits_every_clip_once_in_a_new_order():
    twice = batches(10, 3, epochs=2, drop_last=False)
    orders = [[clip for batch in twice for epoch, clip in batch if epoch == e] for e in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(10))] * 2
    assert orders[0] != orders[1]
    assert len(twice) == 8 == len(list(twice))


def test_drop_last_keeps_every_batch_full_and_tasks_of_equal_size_are_shuffled_differently():
    one, two = (list(batches(10, 4, task=task)) for task in (0, 1))
    assert [len(batch) for batch in one] == [4, 4]
    assert one != two


@pytest.mark.parametrize("start", range(7))
def test_a_later_start_is_the_same_stream_cut(start):
    whole = list(batches(10, 3, epochs=2, seed=5, task=1))
    rest = batches(10, 3, epochs=2, seed=5, task=1, start=start)
    assert list(rest) == whole[start:]
    assert len(rest) == len(whole) - start


def test_processes_share_every_batch(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(batches(11, 3, drop_last=False)))
    monkeypatch.undo()
    together = [first + second for first, second in zip(*parts, strict=True)]
    assert together == list(batches(11, 3, drop_last=False))
    assert [len(batch) for batch in parts[0]] == [1, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_do_not_depend_on_workers(workers):
    data = Noise().clips(0, "train")
    keys = list(batches(16, 4, epochs=2))
    context = {"multiprocessing_context": multiprocessing.get_context("fork")} if workers else {}
    loader = DataLoader(Reader(data, 0), batch_sampler=keys, collate_fn=Collate(), num_workers=workers, **context)
    sums = torch.stack([items["frames"].double().sum() for items, _ in loader])
    read = (Collate()([Reader(data, 0)[key] for key in batch])[0] for batch in keys)
    here = torch.stack([items["frames"].double().sum() for items in read])
    assert torch.equal(sums, here)


def test_training_items_differ_between_epochs_and_evaluation_items_do_not():
    data = Noise().clips(0, "train")
    train, eval_ = Reader(data, 0), Reader(data, None)
    assert not torch.equal(train[0, 3]["frames"], train[1, 3]["frames"])
    assert torch.equal(eval_[0, 3]["frames"], eval_[1, 3]["frames"])


def test_bad_clips_are_taken_out_never_replaced():
    data = Noise(bad=(2,)).clips(0, "train")
    items, bad = Collate()([Reader(data, 0)[0, i] for i in (1, 2, 3)])
    assert items["index"].tolist() == [data[1]["index"], data[3]["index"]]
    assert [str(clip) for clip in bad] == ["train-0-2: made bad by the test"]
    assert Collate()(bad) == (None, bad)


def test_too_many_bad_clips_end_the_run():
    bad = BadClips(allowed_share=0.2)
    bad.enter(10)
    assert len(bad.add([BadClip("a", "mute"), BadClip("b", "mute")])) == 2
    assert bad.add([BadClip("a", "mute")]) == []
    with pytest.raises(UserError, match=r"3 of 10 clips of a task cannot be used, more than learner.max_bad_share"):
        bad.add([BadClip("c", "no audio stream")])
    bad.enter(10)
    bad.add([BadClip("d", "mute")])
    assert list(bad.reasons) == ["a", "b", "c", "d"]


def test_a_scenario_becomes_an_avalanche_benchmark():
    benchmark = Noise(tasks=3).benchmark()
    assert [len(stream) for stream in (benchmark.train_stream, benchmark.eval_stream)] == [3, 3]
    assert set(benchmark.train_stream[1].dataset[0]) == {"frames", "mel", "index", "label", "task"}


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0])
def test_blended_tasks_fade_into_one_another_and_no_clip_is_lost(width):
    sizes = [400, 400, 200]
    tasks = [[(task, clip) for clip in range(size)] for task, size in enumerate(sizes)]
    parts = [list(part) for part in blended(tasks, width)]
    assert [len(part) for part in parts] == sizes
    assert sorted(item for part in parts for item in part) == sorted(item for task in tasks for item in task)
    stream = [task for part in parts for task, _ in part]
    ramp = int(width * min(sizes) / 2)
    for boundary, later in ((400, 1), (800, 2)):
        slack = 15 if width else 0  # the last of those that moved may be a few places off
        before, after = stream[: boundary - ramp - slack], stream[boundary + ramp + slack :]
        assert later not in before and later - 1 not in after
        if width:
            second = sum(task == later for task in stream[boundary : boundary + ramp])
            first = sum(task == later for task in stream[boundary - ramp : boundary])
            assert abs(first / ramp - 1 / 4) < 0.2 and abs(second / ramp - 3 / 4) < 0.2


def test_a_blended_stream_is_as_long_and_its_evaluation_is_as_before():
    sharp, blurred = Noise().benchmark(), Noise(blend=1.0).benchmark()
    for one, two in zip(sharp.eval_stream, blurred.eval_stream, strict=True):
        assert [item["index"] for item in one.dataset] == [item["index"] for item in two.dataset]
    sets = [[{item["index"] for item in part.dataset} for part in stream.train_stream] for stream in (sharp, blurred)]
    assert set.union(*sets[0]) == set.union(*sets[1]) and sets[0] != sets[1]


def test_the_truth_is_found_through_subsets_and_concatenations():
    class Known(NoiseClips):
        def truth(self, i):
            return self.task, i

    known = [Known(Noise(), task, "eval") for task in (0, 1)]
    both = ConcatDataset([Subset(known[0], [3, 5]), known[1]])
    truth = truth_of(Subset(both, [1, 2, 17]))
    assert [truth(i) for i in range(3)] == [(0, 5), (1, 0), (1, 15)]
    assert truth_of(_Named(known[1]))(4) == (1, 4)
    assert truth_of(NoiseClips(Noise(), 0, "eval")) is None
    assert truth_of(ConcatDataset([known[0], NoiseClips(Noise(), 0, "eval")])) is None
