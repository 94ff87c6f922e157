"""Small copies of VGGSound and AudioSet on disk: checked, prepared, and trained on through three tasks."""

import json

import pytest
from material import truncate, write_clip
from miniature import SMALL, audioset, vggsound

from avcl.data import check, prepare, scenario_of_files
from avcl.run import Run

BACKBONE = {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))


def settings(folder, **scenario):
    learner = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "workers": 0}
    return {"scenario": {**SMALL, **scenario}, "backbone": BACKBONE, "learner": learner, "out": str(folder)}


def train(folder, **scenario):
    results = Run.from_config(settings(folder, **scenario)).train()
    return results, json.loads((folder / "run.json").read_text())


def test_vggsound_from_download_to_results_from_files_and_from_a_store(tmp_path, good):
    tasks = ["sports", "people", "home_nature"]
    root = vggsound(tmp_path / "VGGSound", good, tasks, train=2, test=2, distinct=True)
    clips = sorted((root / "video").iterdir())  # of a class: two to train on, two to test on
    clips[0].unlink()
    truncate(clips[100], 0.5)
    given = {"name": "continual-vs", "root": str(root), "order": tasks, "train_per_class": 1, "eval_per_class": 1}

    report = check(scenario_of_files({"scenario": {**SMALL, **given}}))
    counts = report.counts()
    assert [counts["train", task]["found"] for task in tasks] == [20, 20, 20]  # the second clip stands in for the first
    assert [counts["train", task]["usable"] for task in tasks] == [20, 19, 20]
    assert [counts["eval", task]["usable"] for task in tasks] == [20, 20, 20]
    assert counts["train", "sports"]["missing"] == 1

    store = tmp_path / "store"
    told = list(prepare(scenario_of_files({"scenario": {**SMALL, **given}}), store, codec="png"))
    assert told[-1].startswith(f"{store}: complete, 120 clips")

    results, manifest = train(tmp_path / "files", **given)
    assert manifest["clips"] == [20, 19, 20]
    assert manifest["data"] == report.fingerprint
    assert results["tasks"] == tasks
    assert results["tasks_done"] == 3
    assert results["metrics"]["retrieval"]["gallery"] == 60
    assert len(results["metrics"]["retrieval"]["measures"]["a2v/R@10"]["matrix"]) == 3
    assert list(results["bad_clips"].values()) == ["truncated"]

    (root / "video").rename(tmp_path / "gone")
    again, from_store = train(tmp_path / "stored", **given, store=str(store))
    assert again == results
    assert (from_store["clips"], from_store["data"]) == (manifest["clips"], manifest["data"])


def test_audioset_from_download_to_results(tmp_path, good):
    tasks = ["nature", "vehicle", "home"]
    root = audioset(tmp_path / "AudioSet", good, tasks, train=1, test=1, distinct=True)
    given = {"name": "continual-as", "root": str(root), "order": tasks}
    report = check(scenario_of_files({"scenario": {**SMALL, **given}}))
    assert [report.counts()["train", task]["usable"] for task in tasks] == [9, 14, 18]
    assert [report.counts()["eval", task]["usable"] for task in tasks] == [9, 14, 18]
    results, manifest = train(tmp_path / "run", **given)
    assert manifest["clips"] == [9, 14, 18]
    assert manifest["data"] == report.fingerprint
    assert results["metrics"]["retrieval"]["gallery"] == 41
    assert results["tasks_done"] == 3
    assert results["bad_clips"] == {}
