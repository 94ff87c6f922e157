"""``avcl data check``: every fault in its column, one list for machines, one fingerprint for ``run.json``."""

import json

import numpy as np
import pytest
from helpers.material import quarters, truncate, write_clip
from helpers.miniature import SMALL, audioset, place, vggsound
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.data.check import check, scenario_of_files
from avcl.errors import UserError
from avcl.scenarios.continual_as import ContinualAS
from avcl.scenarios.continual_vs import ContinualVS


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, good):
    """20 classes of two clips to train on and one to evaluate on, with every fault there is among the first."""
    root = vggsound(tmp_path_factory.mktemp("vggsound"), good, ["sports"], distinct=True)
    clips = sorted((root / "video").iterdir())  # of a class: train, train, test
    clips[0].unlink()
    truncate(clips[1], 0.5)
    write_clip(clips[3], seconds=2, tracks=[{0: np.zeros(88200, np.float32)}])
    write_clip(clips[4], seconds=2, audio=None)
    write_clip(clips[6], seconds=2, video=None)
    write_clip(clips[7], seconds=0.5)
    write_clip(clips[9], seconds=2, paint=quarters)
    clips[10].write_bytes(b"")
    clips[12].write_bytes(clips[11].read_bytes())
    return root


def row(report, split, task):
    return {key: value for key, value in report.counts()[split, task].items() if value}


def test_every_fault_has_its_column(damaged):
    report = check(ContinualVS(root=str(damaged), order=["sports"], **SMALL))
    counts = row(report, "train", "sports")
    assert (counts.pop("found"), counts.pop("usable")) == (39, 33)
    assert counts == {"missing": 1, "unreadable": 2, "mute": 2, "without video": 1, "short": 1, "still": 1}
    assert row(report, "eval", "sports") == {"found": 20, "usable": 20, "duplicated": 1}
    reasons = {clip.name[:11]: clip.reason for clip in report.clips if clip.reason}
    assert reasons == {
        "-vid_000000": "missing",
        "-vid_000001": "truncated",
        "-vid_000003": "mute",
        "-vid_000004": "no audio stream",
        "-vid_000006": "no video stream",
        "-vid_000007": "0.5 s of video, shorter than 1.0 s",
        "-vid_000010": "empty file",
    }
    headers = [column.header for column in report.table().columns]  # "left out" is not among them: none was
    faults = ["missing", "unreadable", "mute", "without video", "short", "still", "duplicated"]
    assert headers == ["split", "task", "found", *faults, "usable"]
    double = next(clip for clip in report.clips if clip.duplicated)
    assert (double.name[:11], double.duplicated[:17]) == ("-vid_000011", "train/-vid_000012")


def test_a_clip_of_two_tasks_is_reported(tmp_path, good):
    root = audioset(tmp_path / "root", good, ["nature", "animal"], train=1)
    path = root / "unbalanced_train_segments.csv"
    path.write_text(path.read_text().replace('"/m/09x0r,/m/05tny_"', '"/m/0ngt1,/m/05tny_"'))
    report = check(ContinualAS(root=str(root), order=["nature", "animal"], **SMALL))
    assert row(report, "train", "nature")["left out"] == 1
    assert row(report, "train", "animal")["found"] == 26
    assert [clip.reason for clip in report.clips if clip.state == "left out"] == ["of two tasks: nature and animal"]


def test_the_fingerprint_is_the_scenarios_and_follows_the_content(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"], train=1, distinct=True)
    make = lambda **more: ContinualVS(root=str(root), order=["sports"], **SMALL, **more)  # noqa: E731
    before = make().fingerprint
    assert check(make()).fingerprint == before == make(max_bad_share=0.5).fingerprint
    (root / "video").rename(root / "elsewhere")
    assert make().fingerprint == before
    place(good, next((root / "elsewhere").iterdir()), number=999)
    assert make().fingerprint != before


def test_clips_to_pretrain_on_are_looked_into_too(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"], train=2, distinct=True)
    make = lambda **more: ContinualVS(root=str(root), order=["sports"], train_per_class=1, **SMALL, **more)  # noqa: E731
    report = check(make(pretraining="authors"))
    assert row(report, "pretraining", "") == {"found": 20, "usable": 20}
    assert list(report.table().columns[0].cells) == ["train", "eval", "pretraining"]
    assert report.fingerprint == make().fingerprint
    assert {clip.split for clip in check(make()).clips} == {"train", "eval"}


def test_the_command(damaged, tmp_path):
    file = tmp_path / "vs.yaml"
    settings = {"name": "continual-vs", "root": str(damaged), "order": ["sports"], **SMALL}
    file.write_text(json.dumps({"scenario": settings}))
    done = CliRunner().invoke(app, ["data", "check", str(file), "--out", str(tmp_path / "list.json")])
    assert done.exit_code == 0, done.output
    assert "train" in done.output
    content = json.loads((tmp_path / "list.json").read_text())
    assert content["fingerprint"] in done.output
    assert len(content["clips"]) == 60
    assert content["scenario"]["name"] == "continual-vs"
    clip = next(clip for clip in content["clips"] if clip["state"] == "unreadable")
    assert (clip["reason"], clip["split"], clip["task"]) == ("truncated", "train", "sports")
    assert content["counts"][0]["task"] == "sports"


def test_a_scenario_without_files_is_refused():
    with pytest.raises(UserError, match="scenario: 'synthetic' reads no files"):
        scenario_of_files({"scenario": "synthetic"})
