"""AVE and MSR-VTT in their published layouts: lists, clips, segments, and what is wrong with them in one line."""

import shutil

import pytest
import torch
from helpers.material import truncate, write_clip
from helpers.miniature import AVE, SMALL, ave, msrvtt

from avcl.data import transforms
from avcl.data.log_mel import spectrogram
from avcl.data.windows import spread_start
from avcl.errors import SettingsError, UserError
from avcl.evaluation.features import View, Viewed
from avcl.scenarios.ave import Ave, named, read_events
from avcl.scenarios.msrvtt import MsrVtt
from avcl.testing import check_scenario

THREE = SMALL | {"seconds": 3.0}


@pytest.fixture(scope="module")
def bells(tmp_path_factory):
    return ave(tmp_path_factory.mktemp("ave") / "AVE_Dataset")


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("msrvtt")
    return msrvtt(folder / "MSRVTT", write_clip(folder / "good.mp4", seconds=2, size=(64, 48)))


def test_ave_is_a_stream_of_one_task(bells):
    scenario = Ave(root=str(bells), **THREE)
    assert (scenario.task_names, scenario.class_names) == (("ave",), AVE)
    train, held_out = scenario.clips(0, "train"), scenario.clips(0, "eval")
    assert [source.label for source in train.sources] == [0, 0, 0, 1, 1, 1]
    assert [source.index for source in (*train.sources, *held_out.sources)] == list(range(10))
    assert scenario.absent == []
    check_scenario(lambda: Ave(root=str(bells), **THREE))


def test_segments_are_the_seconds_of_a_clip(bells):
    clips = Ave(root=str(bells), **THREE).clips(0, "train")
    assert [clips.segments(number).event.tolist() for number in range(5)] == [
        *([0, 0, -1], [-1, 0, 0], [0, 0, -1], [1, 1, -1], [-1, 1, 1]),
    ]
    frames, mel, _ = clips.segments(1)
    assert (frames.shape, mel.shape) == ((3, 2, 3, 32, 32), (3, 1, 128, 32))
    # the second second alone: 98 frames in the middle, 15 of padding on both sides
    wave = clips.sources[1].sound(3.0)[16000:32000]
    alone = spectrogram(wave, 98, 32)
    assert torch.equal(mel[1][:, 15:113], alone)
    padding = 5.081 / 4.4849
    assert torch.allclose(torch.cat([mel[:, :, :15], mel[:, :, 113:]], dim=2), torch.tensor(padding))
    assert mel[0][0, 15:113].mean() < mel[1][0, 15:113].mean(), "it begins in the second second"
    # the clock that is painted: frames at 1.0 and 1.5 s differ, and are those of a window that begins there
    assert not torch.equal(frames[1, 0], frames[1, 1])
    shown = clips.sources[1].pictures([1.0, 1.5])
    shown = transforms.resize(transforms.shrink(shown, *transforms.store_size(32, 32)), 32, 32)
    assert torch.equal(frames[1], transforms.normalise(shown))


def test_a_video_with_two_events_is_two_clips(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("Category&VideoID&Quality&StartTime&EndTime\nBark&abc&good&0&4\n\nTruck&abc&good&5&10\n")
    found = list(named(read_events(path)))
    assert [name for name, _ in found] == ["abc", "abc#2"]
    assert [(event.category, event.start, event.stop) for _, event in found] == [("Bark", 0, 4), ("Truck", 5, 10)]


@pytest.mark.parametrize("line", ["Bark&abc&good&0", "Bark&abc&good&0&x", "Bark,abc,good,0,4"])
def test_a_line_that_is_none_is_named(tmp_path, bells, line):
    root = tmp_path / "root"
    shutil.copytree(bells, root)
    (root / "testSet.txt").write_text(f"Bark&abc&good&0&4\n{line}\n")
    with pytest.raises(SettingsError) as wrong:
        Ave(root=str(root), **THREE)
    assert str(wrong.value) == (
        f"eval: {root}/testSet.txt:2: invalid line {line!r}: must be Category&VideoID&Quality&StartTime&EndTime, "
        "with whole seconds"
    )


def test_what_is_missing_or_cut_off_is_counted(tmp_path, bells, caplog):
    root = tmp_path / "root"
    shutil.copytree(bells, root)
    (root / "AVE" / "-v00_000000.mp4").unlink()
    truncate(root / "AVE" / "-v10_000000.mp4", 0.3)
    with (root / "testSet.txt").open("a") as file:
        file.write("Church bell&-v10_000001&good&0&1\n")
    scenario = Ave(root=str(root), max_bad_share=0.5, **THREE)
    assert [(gone.split, gone.name, gone.reason) for gone in scenario.absent] == [("train", "-v00_000000", "missing")]
    names = [source.name for source in scenario.clips(0, "eval").sources]
    assert names == ["-v10_000001", "-v11_000000", "-v11_000001", "-v10_000001#2"]
    assert [clips.item() for clips in scenario.clips(0, "eval").segments(3).event] == [0, -1, -1]
    assert "left out, missing: 1 clip; the first: -v00_000000" in caplog.text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"root": "nowhere"}, "root: 'nowhere' is no folder; it must hold the lists and the videos"),
        ({"train": "x.txt"}, "train: no file '{root}/x.txt'; the path counts from root"),
        ({"seconds": 2.5}, "seconds: invalid value 2.5: must be whole seconds, one for each segment"),
        ({"eval": "empty.txt"}, "eval: {root}/empty.txt lists no clip"),
    ],
)
def test_mistakes_are_told(bells, settings, told):
    (bells / "empty.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n")
    with pytest.raises(SettingsError) as wrong:
        Ave(**{"root": str(bells), **THREE, **settings})
    assert str(wrong.value) == told.format(root=bells)


def test_none_of_the_videos_is_there(bells, tmp_path):
    for name in ("trainSet.txt", "testSet.txt"):
        shutil.copy(bells / name, tmp_path / name)
    scenario = Ave(root=str(tmp_path), **THREE)
    told = f"^ave: none of the 6 clips of train \\(trainSet.txt\\) is below {tmp_path}; the first: -v00_000000.mp4$"
    with pytest.raises(UserError, match=told):
        scenario.sources("train")


@pytest.mark.parametrize(
    "lists",
    [
        {},
        {"train": "MSRVTT_train.9k.csv", "eval": "MSRVTT_JSFUSION_test.csv"},
        {"train": "MSRVTT_data.json", "eval": "MSRVTT_data.json"},
    ],
)
def test_msrvtt_reads_its_lists(captions, lists):
    scenario = MsrVtt(root=str(captions), **SMALL, **lists)
    assert (scenario.task_names, scenario.class_names) == (("msrvtt",), ("video",))
    assert [source.name for source in scenario.sources("train")] == ["video0", "video1", "video2", "video3"]
    assert [source.name for source in scenario.sources("eval")] == ["video4", "video5", "video6"]


def test_msrvtt_refuses_other_files(captions):
    (captions / "other.csv").write_text("id,sentence\n1,a\n")
    (captions / "other.json").write_text('{"images": []}')
    with pytest.raises(SettingsError) as wrong:
        MsrVtt(root=str(captions), train="other.csv", eval="other.json", **SMALL)
    assert wrong.value.mistakes == [
        f"train: {captions}/other.csv: has no column 'video_id'; its first line names id, sentence",
        f"eval: {captions}/other.json: has no videos with video_id and split (KeyError: 'videos')",
    ]


@pytest.mark.parametrize(("length", "starts"), [(10.0, [0, 2, 4, 6]), (4.0, [0, 0, 0, 0]), (5.0, [0, 0.25, 0.625, 1])])
def test_windows_are_evenly_spread(length, starts):
    assert [spread_start(length, 4.0, number, 4) for number in range(4)] == starts
    assert spread_start(length, 4.0, 0, 1) == 0


def test_files_show_the_window_that_is_asked_for(bells):
    clips = Ave(root=str(bells), **THREE).clips(0, "eval")  # 3 s, of which a sample shows 1
    shown = [Viewed(clips, View(window=(k, 3)), 0)[0]["frames"] for k in range(3)]
    middle = clips[0]["frames"]
    assert torch.equal(shown[1], middle)
    assert not torch.equal(shown[0], middle)
    assert not torch.equal(shown[0], shown[2])
    assert Ave(root=str(bells), **THREE).windowed
    assert not Ave(root=str(bells), **THREE | {"window": 3.0}).windowed
