"""``avcl data check``: whatever lies in a folder or a list is used, or ends in one word, alike in check and prepare."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from helpers.material import assert_alike, quarters, readings, rotate, sine, truncate, write_album, write_clip
from helpers.miniature import SMALL, audioset, place, vggsound
from PIL import Image
from typer.testing import CliRunner

from avcl.cli.data import scenario_of_files
from avcl.cli.main import app
from avcl.data.check import check_clips
from avcl.errors import UserError
from avcl.scenarios.continual_as import ContinualAS
from avcl.scenarios.continual_vs import ContinualVS

BIG = 5 * 2**30


def with_a_hole(path):
    """A good file of 5 GiB: sound and pictures, a box of 64-bit size that takes no room on the disk, the header."""
    data = path.read_bytes()
    header = data.rindex(b"moov") - 4
    with path.open("wb") as file:
        file.write(data[:header] + (1).to_bytes(4, "big") + b"free" + (BIG + 16).to_bytes(8, "big"))
        file.seek(header + 16 + BIG)
        file.write(data[header:])


def without_end(path):
    """The beginning of 5 GiB of sound and pictures, of which nothing came after."""
    head = path.read_bytes()[:32]
    path.write_bytes(head + (1).to_bytes(4, "big") + b"mdat" + (BIG + 16).to_bytes(8, "big"))
    os.truncate(path, BIG)


def garbage(path):
    """5 GiB of zeros."""
    path.write_bytes(b"")
    os.truncate(path, BIG)


def changed(change, **clip):
    """A good clip, spoiled."""

    def make(path):
        write_clip(path, **{"seconds": 2, **clip})
        change(path)

    return make


def clip(**settings):
    return lambda path: write_clip(path, **{"seconds": 2, **settings})


def text(content):
    return lambda path: path.write_text(content)


def renamed(ending, **settings):
    """A clip of another kind than its name says."""
    return lambda path: write_clip(path.with_suffix(ending), seconds=2, **settings).rename(path)


# name: (what makes it, the column of the check, the reason; empty where it can be used)
CASES = {
    "two words.mp4": (clip(), "usable", ""),
    "Käfer 鳥 🐦.mp4": (clip(), "usable", ""),
    "x" * 251 + ".mp4": (clip(), "usable", ""),
    "鳥" * 83 + "x.mp4": (clip(), "usable", ""),  # 254 bytes in 88 characters
    "100% [a] {b} 'c' \"d\" #e?.mp4": (clip(), "usable", ""),
    "bytes.mp4": (text(""), "corrupt", "empty file"),
    "truncated.mp4": (changed(lambda path: truncate(path, 0.5)), "corrupt", "truncated"),
    "header only.mp4": (changed(lambda path: truncate(path, 0.01)), "corrupt", "truncated"),
    "page.mp4": (text("<!doctype html><title>429 Too Many Requests</title>" * 9), "corrupt", "not a media file"),
    "picture.mp4": (lambda path: Image.new("RGB", (64, 48)).save(path, "jpeg"), "corrupt", "not a media file"),
    "sound.mp4": (renamed(".wav", video=None, audio="pcm_s16le"), "without video", "no video stream"),
    "album.mp4": (write_album, "without video", "no video stream"),
    "matroska.mp4": (renamed(".mkv"), "usable", ""),
    "deaf.mp4": (clip(audio=None), "without audio", "no audio stream"),
    "silent.mp4": (clip(tracks=[{0: np.zeros(88200, np.float32)}]), "silent", "silent"),
    "late.mp4": (clip(tracks=[{0: np.r_[np.zeros(44100), sine(1, 44100)]}]), "usable", ""),  # silent at first
    "static.mp4": (clip(paint=quarters), "usable", ""),
    "short.mp4": (clip(seconds=0.4), "too short", "0.4 s of video, shorter than 1.0 s"),
    "short sound.mp4": (clip(tracks=[{0: sine(0.6, 44100)}]), "too short", "0.6 s of audio, shorter than 1.0 s"),
    "shorter sound.mp4": (clip(tracks=[{0: sine(1.5, 44100)}]), "usable", ""),
    "longer sound.mp4": (clip(tracks=[{0: sine(5, 44100)}]), "usable", ""),
    "uneven.mp4": (clip(times=[0, 0.1, 0.5, 0.52, 1.4, 1.9]), "usable", ""),
    "sideways.mp4": (changed(rotate, size=(128, 64)), "usable", ""),
    "odd.mp4": (clip(size=(127, 95), pixels="yuv444p"), "usable", ""),
    "tiny.mkv": (clip(size=(17, 3), video="ffv1", pixels="yuv444p"), "usable", ""),
    "around.mp4": (clip(layout="5.1", rate=48000), "usable", ""),
    "telephone.mp4": (clip(layout="mono", rate=8000), "usable", ""),
    "two tracks.mp4": (clip(tracks=[{0: sine(2, 44100)}, {0: sine(2, 44100, 880)}]), "usable", ""),
    "big.mp4": (changed(with_a_hole), "usable", ""),
    "big tail.mp4": (changed(lambda path: os.truncate(path, BIG)), "usable", ""),
    "big and cut.mp4": (changed(without_end), "corrupt", "truncated"),
    "big garbage.mp4": (garbage, "corrupt", "not a media file"),
    "codec.mp4": (
        changed(lambda path: path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))),
        "corrupt",
        "no decoder for its video",
    ),
    "link.mp4": (lambda path: path.symlink_to("nowhere.mp4"), "corrupt", "no such file or directory"),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """All of them in a task, and as many good ones in another."""
    root = tmp_path_factory.mktemp("videos") / "two words é"
    for name, (make, *_) in CASES.items():
        path = root / "train" / "odd" / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    for split, task in (("train", "even"), ("eval", "even"), ("eval", "odd")):
        write_clip(root / split / task / "class" / "a.mp4", seconds=2)
    return root


@pytest.fixture(scope="module")
def settings(videos, tmp_path_factory):
    scenario = {"name": "folder", "root": str(videos), "max_bad_share": 0.6, **SMALL}
    file = tmp_path_factory.mktemp("settings") / ("x" * 250 + ".yaml")
    file.write_text(json.dumps({"scenario": scenario}))
    return file


def avcl(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def test_check_has_a_word_and_a_column_for_each(settings, tmp_path):
    out = tmp_path / ("y" * 250 + ".json")
    shown = avcl("data", "check", settings, "--out", out)
    content = json.loads(out.read_text())
    clips = {(clip["task"], clip["split"], clip["name"].rpartition("/")[2]): clip for clip in content["clips"]}
    odd = {name: clip for (task, split, name), clip in clips.items() if (task, split) == ("odd", "train")}
    assert {name: (clip["state"], clip["reason"]) for name, clip in odd.items()} == {
        name: case[1:] for name, case in CASES.items()
    }
    assert {name for name, clip in odd.items() if clip["static"]} == {"static.mp4"}
    assert clips["even", "eval", "a.mp4"]["duplicate"] == "train/train/even/class/a.mp4"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert content["fingerprint"] in shown
    assert content["scenario"]["name"] == "folder"
    faults = ["corrupt", "without audio", "silent", "without video", "too short", "static", "duplicate"]
    assert shown.strip().splitlines()[0].split() == " ".join(["split task found", *faults, "usable"]).split()
    (counts,) = (row for row in content["counts"] if (row["split"], row["task"]) == ("train", "odd"))
    states = Counter(case[1] for case in CASES.values())
    assert {state: counts[state] for state in states} == states
    assert counts["found"] == len(CASES)


def test_prepare_quarantines_what_cannot_be_decoded_and_keeps_the_rest_as_it_is(videos, settings, tmp_path):
    store = tmp_path / ("z" * 255)
    told = avcl("data", "prepare", settings, "--out", store, "--codec", "png", "--workers", 1)
    assert f"complete, {len(CASES) + 3} clips" in told
    rows = json.loads((store / "store.json").read_text())["quarantined"]
    quarantined = {row["name"].rpartition("/")[2]: row["reason"] for row in rows}
    # a store keeps short clips, for a shorter window
    assert quarantined == {name: case[2] for name, case in CASES.items() if case[2] and case[1] != "too short"}
    raw = json.loads(settings.read_text())
    both = [scenario_of_files({"scenario": raw["scenario"] | more}) for more in ({}, {"store": str(store)})]
    files, stored = (scenario.clips(1, "train") for scenario in both)
    assert_alike(files, stored)
    found = {name.rpartition("/")[2]: item for name, item in readings(files).items()}
    # that a clip is silent shows when it is decoded
    assert {name: item[1] for name, item in found.items() if isinstance(item, tuple)} == {"silent.mp4": "silent"}
    assert found.keys() == {name for name, case in CASES.items() if not case[2]} | {"silent.mp4"}


# ---- lists ----
def spoiled(content):
    """The list with whatever a list may have that it should not."""
    lines = content.splitlines()
    bad = ['x,soon,"skiing",train', 'y,1,"skiing"', 'z,1,"sking",train', lines[0], 'w,7,"skiing",train']
    return ("\ufeff" + "\r\n".join([*lines[:9], "", *bad, *lines[9:]]) + "\r\n").encode()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))


@pytest.fixture(scope="module")
def download(tmp_path_factory, good):
    return vggsound(tmp_path_factory.mktemp("vs"), good, ["sports"], distinct=True)


def vs(root, file, **more):
    settings = {"name": "continual-vs", "root": str(root), "order": ["sports"], **SMALL, **more}
    file.write_text(json.dumps({"scenario": settings}))
    return file


def test_a_spoiled_list_is_counted_and_gives_the_same_clips(download, tmp_path):
    (download / "spoiled.csv").write_bytes(spoiled((download / "vggsound.csv").read_text()))
    told = []
    for name in ("vggsound.csv", "spoiled.csv"):
        file = vs(download, tmp_path / "vs.yaml", train=name, eval=name)
        avcl("data", "check", file, "--out", tmp_path / "clips.json")
        told.append(json.loads((tmp_path / "clips.json").read_text()))
    whole, content = told
    assert content["fingerprint"] == whole["fingerprint"]
    reasons = [clip["reason"] for clip in content["clips"] if clip["state"] != "usable" and clip["split"] == "train"]
    assert reasons == [
        "bad row: start 'soon' is no number of seconds",
        "bad row: 3 columns, not 4: id, start, label, split",
        "unknown class 'sking'",
        "listed twice",
        "missing",
    ]


def test_a_list_without_a_clip_of_the_tasks_makes_no_store(download, tmp_path):
    file = vs(download, tmp_path / "vs.yaml", order=["people"], train="vggsound.csv", eval="vggsound.csv")
    said = avcl("data", "prepare", file, "--out", tmp_path / "store", code=2)
    assert said.endswith(
        "avcl: scenario: 'continual-vs' has no clip of people; `avcl data check` counts what is there\n"
    )
    assert not (tmp_path / "store").exists()


def test_clips_that_a_store_was_not_prepared_with_are_asked_for(download, tmp_path):
    file = vs(download, tmp_path / "vs.yaml", train_per_class=1)
    avcl("data", "prepare", file, "--out", tmp_path / "store", "--workers", 1)
    sets = ["--set", f"scenario.store={tmp_path / 'store'}", "--set", "scenario.train_per_class=2"]
    said = avcl("data", "check", file, *sets, code=2)  # all that may be wider: store/test_compatible.py
    assert "scenario.store: was prepared with train_per_class = 1; 2" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [  # that of the reader: tests/data/test_lists.py
        (lambda text: "id,start,label,split\n", "is no list that can be read"),
        (lambda text: text.replace(",train", ",dev").replace(",test", ",dev"), "has 4 columns, and is no list"),
    ],
)
def test_a_list_that_is_none_ends_in_one_line(download, tmp_path, change, told):
    (download / "none.csv").write_text(change((download / "vggsound.csv").read_text()))
    file = vs(download, tmp_path / "vs.yaml", train="none.csv")
    for verb in (["check"], ["prepare", "--out", tmp_path / "store"]):
        said = avcl("data", verb[0], file, *verb[1:], code=2)
        assert said.startswith(f"avcl: {download}/none.csv: ")
        assert told in said
        assert said.count("\n") == 1
    assert not (tmp_path / "store").exists()


def row(report, split, task):
    return {key: value for key, value in report.counts()[split, task].items() if value}


def test_a_clip_of_two_tasks_is_reported(tmp_path, good):
    root = audioset(tmp_path / "root", good, ["nature", "animal"], train=1)
    path = root / "unbalanced_train_segments.csv"
    path.write_text(path.read_text().replace('"/m/09x0r,/m/05tny_"', '"/m/0ngt1,/m/05tny_"'))
    report = check_clips(ContinualAS(root=str(root), order=["nature", "animal"], **SMALL))
    assert row(report, "train", "nature")["left out"] == 1
    assert row(report, "train", "animal")["found"] == 26
    assert [clip.reason for clip in report.clips if clip.state == "left out"] == ["of two tasks: nature and animal"]


def test_the_fingerprint_is_the_scenarios_and_follows_the_content(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"], train=1, distinct=True)
    make = lambda **more: ContinualVS(root=str(root), order=["sports"], **SMALL, **more)  # noqa: E731
    before = make().fingerprint
    assert check_clips(make()).fingerprint == before == make(max_bad_share=0.5).fingerprint
    (root / "video").rename(root / "elsewhere")
    assert make().fingerprint == before
    place(good, next((root / "elsewhere").iterdir()), number=999)
    assert make().fingerprint != before


def test_clips_to_pretrain_on_are_checked_too(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"], train=2, distinct=True)
    make = lambda **more: ContinualVS(root=str(root), order=["sports"], train_per_class=1, **SMALL, **more)  # noqa: E731
    report = check_clips(make(pretraining="authors"))
    assert row(report, "pretraining", "") == {"found": 20, "usable": 20}
    assert list(report.table().columns[0].cells) == ["train", "eval", "pretraining"]
    assert report.fingerprint == make().fingerprint
    assert {clip.split for clip in check_clips(make()).clips} == {"train", "eval"}


def test_a_scenario_without_files_is_refused():
    with pytest.raises(UserError, match="scenario: 'synthetic' reads no files"):
        scenario_of_files({"scenario": "synthetic"})
