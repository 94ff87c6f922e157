"""A folder of videos as a stream: names, splits, bad files, one sample however many workers read it."""

import logging
import shutil
import struct

import numpy as np
import pytest
import torch
from helpers.material import sine, truncate, write_clip
from helpers.miniature import SMALL
from torch.utils.data import DataLoader

from avcl.clip import Shape
from avcl.data.dataset import Files
from avcl.data.decode import frames, sound
from avcl.data.log_mel import spectrogram
from avcl.data.preprocessing import Preprocessing
from avcl.data.source import Source, inspect
from avcl.data.transforms import normalise, resize, shrink
from avcl.errors import BadClip, SettingsError, UserError
from avcl.scenario import augmenting
from avcl.scenarios.folder import Folder, held_out, natural
from avcl.training.loading import Collate, Reader


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Two seconds that can be used."""
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2)


@pytest.fixture
def grow(tmp_path, good):
    """Makes ``root/<task>/<class>/<clip>`` out of a mapping of tasks to classes to names of clips."""

    def make(tree, root="root"):
        for task, classes in tree.items():
            for label, names in classes.items():
                for name in names:
                    path = tmp_path / root / task / label / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(good, path)
        return tmp_path / root

    return make


def names(count):
    return [f"clip{number}.mp4" for number in range(count)]


TREE = {"task2": {"b": names(5), "a": names(5)}, "task10": {"a": names(5), "c": names(10)}}


def mistake(**settings):
    with pytest.raises(SettingsError) as wrong:
        Folder(**settings)
    return str(wrong.value)


# ---- names and splits ----
def test_tasks_and_classes_are_the_folders(grow):
    scenario = Folder(root=str(grow(TREE)), **SMALL)
    assert (scenario.task_names, scenario.class_names) == (("task2", "task10"), ("a", "b", "c"))
    assert scenario.shape == Shape(2, 32, 32, 128, 32)
    assert Folder(root=scenario.root).shape == Shape(4, 224, 224, 1024, 128)  # the paper's
    assert scenario.pretraining_clips() is None
    train, held = ([(s.task, s.label) for s in scenario.sources(split)] for split in ("train", "eval"))
    assert sorted(held) == [(0, 0), (0, 1), (1, 0), (1, 2), (1, 2)]  # a fifth of each class
    assert len(train) == 20
    benchmark = scenario.benchmark()
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [8, 12]
    assert [len(experience.dataset) for experience in benchmark.eval_stream] == [2, 3]


def test_every_clip_has_a_number_of_its_own_that_no_setting_changes(grow):
    root = str(grow(TREE))
    numbers = {s.path: s.index for split in ("train", "eval") for s in Folder(root=root).sources(split)}
    assert sorted(numbers.values()) == list(range(25))
    other = Folder(root=root, order=["task10"], eval_share=0.5)
    assert other.task_names == ("task10",)
    assert {s.task for s in other.sources("train")} == {0}
    assert all(numbers[s.path] == s.index for s in other.sources("train") + other.sources("eval"))
    assert len(other.sources("eval")) == 7  # 2 of 5, 5 of 10


def test_what_is_held_out_depends_on_names_alone():
    clips = names(100)
    held = held_out(clips, 0.2)
    assert len(held) == 20
    assert held_out(clips[::-1], 0.2) == held
    assert len(held & held_out([*clips, "one more.mp4"], 0.2)) >= 19
    assert held_out(["only.mp4"], 0.5) == set()
    assert len(held_out(names(2), 0.01)) == 1
    assert len(held_out(names(3), 0.99)) == 2


def test_sorting_as_people_count():
    counted = ["9", "10", "clip", "clip2", "Clip3", "clip10"]
    assert sorted(sorted(counted), key=natural) == counted


def test_train_and_eval_folders_are_the_splits(grow):
    root = grow({"birds": {"owl": names(3)}, "tools": {"saw": names(2)}}, "root/train")
    grow({"birds": {"owl": names(2)}, "tools": {"saw": names(1)}}, "root/eval")
    scenario = Folder(root=str(root.parent), **SMALL)
    assert scenario.task_names == ("birds", "tools")
    assert [len(scenario.clips(task, "train")) for task in (0, 1)] == [3, 2]
    assert [len(scenario.clips(task, "eval")) for task in (0, 1)] == [2, 1]
    assert sorted(s.index for split in ("train", "eval") for s in scenario.sources(split)) == list(range(8))


def test_what_is_no_clip_is_not_read(grow, caplog):
    root = grow(TREE)
    for name in (".DS_Store", "._clip0.mp4", "notes.txt", "cover.JPG"):
        (root / "task2" / "a" / name).write_text("no video")
    (root / ".git").mkdir()
    (root / "readme.md").write_text("no task")
    (root / "task2" / "a" / "folder.mp4").mkdir()
    shutil.move(root / "task2" / "a" / "clip0.mp4", root / "task2" / "a" / "CLIP0.MP4")
    with caplog.at_level(logging.INFO, "avcl"):
        scenario = Folder(root=str(root), **SMALL)
    assert scenario.task_names == ("task2", "task10")
    assert len(scenario.sources("train")) + len(scenario.sources("eval")) == 25
    assert "2 files with other endings are not read: .JPG, .txt" in caplog.text


# ---- settings ----
def test_mistakes_are_named(grow, tmp_path):
    root = str(grow(TREE))
    none = str(tmp_path / "none")
    assert mistake(root=none) == f"root: {none!r} is no folder; it must hold <task>/<class>/<clip>.mp4"
    (tmp_path / "empty").mkdir()
    assert mistake(root=str(tmp_path / "empty")).startswith("root: no task folders in")
    assert mistake(root=root, order=["task3"]) == (
        f"order: 'task3' is no task folder of {root!r}; did you mean 'task2'?"
    )
    assert mistake(root=root, order=["task2", "task2"]) == "order: 'task2' is given 2 times"
    assert mistake(root=root, window=20) == "window: 20 is longer than the 10 seconds used of every file"
    assert mistake(root=root, eval_share=0).startswith("eval_share: invalid value 0: must be greater than 0")


def test_tasks_without_clips_are_named(grow):
    root = grow({**TREE, "single": {"a": names(1), "b": names(1)}})
    (root / "bare" / "class").mkdir(parents=True)
    assert mistake(root=str(root)).splitlines() == [
        "root: task 'bare' has no clips; they belong into <class>/ folders of it",
        "root: task 'single' has no clip to evaluate on; one of its classes needs at least two",
    ]
    assert Folder(root=str(root), order=["task2"]).task_names == ("task2",)
    root = grow({"birds": {"owl": names(3)}, "tools": {"saw": names(2)}}, "split/train")
    grow({"birds": {"owl": names(2)}}, "split/eval")
    assert mistake(root=str(root.parent)) == (
        "root: task 'tools' has no clips of eval; they belong into <class>/ folders of it"
    )


# ---- bad files ----
def spoil(root):
    """Three files that cannot be used, and one whose damage shows only when it is decoded."""
    truncate(root / "task2" / "a" / "clip0.mp4", 0.5)
    write_clip(root / "task2" / "a" / "clip1.mp4", seconds=2, audio=None)
    (root / "task10" / "c" / "clip2.mp4").write_text("this is not a video\n" * 40)
    silence = [{0: np.zeros(88200, np.float32)}]
    write_clip(root / "task10" / "c" / "clip3.mp4", seconds=2, tracks=silence)


def test_bad_files_are_skipped_counted_and_named(grow, caplog):
    root = grow(TREE)
    spoil(root)
    scenario = Folder(root=str(root), max_bad_share=0.2, **SMALL)  # 2 of 10, 1 of 15
    with caplog.at_level(logging.WARNING, "avcl"):
        sizes = [len(scenario.clips(task, split)) for task in (0, 1) for split in ("train", "eval")]
    assert sum(sizes) == 25 - 3
    assert {bad.path.removeprefix(str(root)): bad.reason for bad in scenario.refused} == {
        "/task2/a/clip0.mp4": "truncated",
        "/task2/a/clip1.mp4": "no audio stream",
        "/task10/c/clip2.mp4": "not a media file",
    }
    assert len(caplog.records) == 4
    assert caplog.messages[-1] == "3 of 25 files cannot be used"
    assert f"skipped {root}/task2/a/clip1.mp4: no audio stream" in caplog.text
    with pytest.raises(UserError) as error:
        Folder(root=str(root), **SMALL).clips(0, "train")
    assert str(error.value) == (
        "folder: 2 of 10 files of task 'task2' cannot be used, more than "
        f"scenario.max_bad_share = 0.1 allows; the first: {root}/task2/a/clip0.mp4: truncated"
    )


def test_a_split_without_a_usable_file_ends_the_run(grow):
    root = grow({"birds": {"owl": names(2)}})
    scenario = Folder(root=str(root), max_bad_share=1, **SMALL)
    truncate(root / "birds" / "owl" / next(iter(held_out(names(2), 0.2))), 0.5)
    with pytest.raises(UserError, match="folder: task 'birds' has no usable file in its eval split"):
        scenario.clips(0, "eval")
    assert len(scenario.clips(0, "train")) == 1


def test_sound_that_turns_out_shorter_than_its_time_stamps(tmp_path):
    tone = sine(1.8, 44100)
    path = write_clip(tmp_path / "clip.mkv", seconds=2, audio="pcm_s16le", layout="mono", tracks=[{0: tone}])
    rate, wrong = (b"\xb5\x88" + struct.pack(">d", hertz) for hertz in (44100, 3 * 44100))
    path.write_bytes(path.read_bytes().replace(rate, wrong))
    assert inspect(Source(str(path), 0, 0, 0), window=1.0, seconds=2.0).audio == pytest.approx(1.8, abs=0.1)
    clips = Files([Source(str(path), 0, 0, 0)], Preprocessing(**SMALL))
    with pytest.raises(BadClip) as bad:
        clips[0]
    assert bad.value.reason == "0.6 s of audio, shorter than 1.0 s"


# ---- samples ----
def test_a_sample_is_the_middle_of_its_clip(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", seconds=10.4)
    sample = Files([Source(str(path), label=3, task=1, index=17)], Preprocessing())[0]
    stored = shrink(frames(str(path), [3.0, 4.0, 5.0, 6.0]), 256, 256)
    assert torch.equal(sample["frames"], normalise(resize(stored, 224, 224)))
    assert torch.equal(sample["mel"], spectrogram(sound(str(path))[:160000]))
    assert (sample["index"], sample["label"], sample["task"]) == (17, 3, 1)


def test_training_moves_the_window_the_crop_and_the_sound_whatever_the_place_in_a_list(grow):
    clips = Folder(root=str(grow(TREE)), **SMALL).clips(0, "train")
    turned = Files(clips.sources[::-1], clips.preprocessing)
    still = clips[0]
    with augmenting(seed=0, epoch=0):
        one, same = clips[0], turned[len(clips) - 1]
        assert not torch.equal(one["mel"], turned[0]["mel"])
    with augmenting(seed=0, epoch=1):
        other = clips[0]
    for key in ("frames", "mel"):
        assert torch.equal(one[key], same[key])
        assert not torch.equal(one[key], other[key])
        assert not torch.equal(one[key], still[key])


def read(clips, workers):
    order = np.random.default_rng(0).permutation(len(clips)).tolist()
    batches = [[(epoch, clip) for clip in order[at : at + 4]] for epoch in (0, 1) for at in range(0, len(order), 4)]
    return list(DataLoader(Reader(clips, 5), batch_sampler=batches, num_workers=workers, collate_fn=Collate()))


def test_any_number_of_workers_reads_the_same(grow):
    root = grow(TREE)
    spoil(root)
    clips = Folder(root=str(root), max_bad_share=0.25, **SMALL).clips(1, "train")
    alone, crowd = read(clips, 0), read(clips, 2)
    assert len(alone) == len(crowd)
    for (batch, bad), (other, worse) in zip(alone, crowd, strict=True):
        assert batch.keys() == other.keys() == {"frames", "mel", "index", "label", "task"}
        assert all(torch.equal(batch[key], other[key]) for key in batch)
        assert [str(clip) for clip in bad] == [str(clip) for clip in worse]
