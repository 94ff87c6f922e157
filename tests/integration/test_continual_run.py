"""Small copies of VGGSound and AudioSet on disk, by the command line: checked, prepared, trained on for three tasks."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from helpers.material import truncate, write_clip
from helpers.miniature import SMALL, audioset, vggsound
from typer.testing import CliRunner

from avcl.cli.data import scenario_of_files
from avcl.cli.main import app
from avcl.scenarios.splits import read_categories

BACKBONE = {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1}
LEARNER = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "workers": 0}


class Download(NamedTuple):
    """What somebody has on disk, and what the class lists say is in it."""

    file: Path  # the run file
    root: Path
    tasks: list[str]
    train: list[int]  # clips of each task that can be used
    eval: list[int]
    faults: dict[str, str]  # of clips, by name
    absent: dict[str, int]  # clips of the first task that are in no dataset


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))


def describe(root, tasks, train, evaluated, faults, absent, **scenario):
    file = root.parent / "run.yaml"
    settings = {"scenario": {**SMALL, "root": str(root), "order": tasks, **scenario}}
    file.write_text(yaml.safe_dump(settings | {"backbone": BACKBONE, "learner": LEARNER}))
    return Download(file, root, tasks, train, evaluated, faults, absent)


@pytest.fixture(scope="module")
def sights(tmp_path_factory, good):
    """VGGSound: 20 classes a task, of which one clip each is to be trained on; one is missing, one cut off."""
    tasks = ["sports", "people", "home_nature"]
    root = vggsound(tmp_path_factory.mktemp("vs") / "VGGSound", good, tasks, train=2, test=2, distinct=True)
    clips = sorted((root / "video").glob("-vid_*"))  # two of a class to train on; those to test on have their own names
    clips[0].unlink()  # the second clip stands in for it
    truncate(clips[50], 0.5)
    given = {"name": "continual-vs", "train_per_class": 1, "eval_per_class": 1}
    faults, absent = {clips[50].stem: "truncated"}, {"missing": 1, "left out": 0}
    return describe(root, tasks, [20, 19, 20], [20, 20, 20], faults, absent, **given)


@pytest.fixture(scope="module")
def segments(tmp_path_factory, good):
    """AudioSet: all clips of the classes; one without sound, one of two tasks."""
    tasks = ["nature", "vehicle", "home"]
    root = audioset(tmp_path_factory.mktemp("as") / "AudioSet", good, tasks, train=1, test=1, distinct=True)
    deaf = sorted((root / "unbalanced_train_segments").iterdir())[30]
    write_clip(deaf, seconds=2, audio=None)
    path, categories = root / "unbalanced_train_segments.csv", read_categories("continual_as").tasks
    one, other = (categories[task].classes[0].mid for task in ("nature", "home"))
    path.write_text(path.read_text().replace(f'"/m/09x0r,{one}"', f'"{one},{other}"'))
    sizes = [len(categories[task].classes) for task in tasks]
    assert sizes == [9, 14, 18]
    faults, absent = {deaf.stem.removesuffix("_40000"): "no audio stream"}, {"missing": 0, "left out": 1}
    return describe(root, tasks, [8, 14, 17], sizes, faults, absent, name="continual-as")


def avcl(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("which", ["sights", "segments"])
def test_from_download_to_results_from_files_and_from_a_store(which, request, tmp_path):
    given: Download = request.getfixturevalue(which)
    checked = avcl("data", "check", given.file, "--out", tmp_path / "clips.json")
    listed = json.loads((tmp_path / "clips.json").read_text())
    counts = {(row["split"], row["task"]): row for row in listed["counts"]}
    assert [counts["train", task]["usable"] for task in given.tasks] == given.train
    assert [counts["eval", task]["usable"] for task in given.tasks] == given.eval
    assert {key: counts["train", given.tasks[0]].get(key, 0) for key in given.absent} == given.absent
    kinds = ("corrupt", "without audio")
    assert {clip["name"]: clip["reason"] for clip in listed["clips"] if clip["state"] in kinds} == given.faults

    store = tmp_path / "store"
    told = avcl("data", "prepare", given.file, "--out", store, "--codec", "png", "--workers", 1)
    total = sum(given.train) + sum(given.eval) + len(given.faults)
    assert f"{total} of {total} clips in {total} of {total} shards" in told
    assert f"1 of {total} clips cannot be decoded: {next(iter(given.faults.values()))}" in told
    assert f"{store}: complete, {total} clips" in told

    def run(name, *more):
        avcl("train", given.file, "--out", tmp_path / name, *more)
        return (json.loads((tmp_path / name / file).read_text()) for file in ("results.json", "run.json"))

    results, manifest = run("files")
    assert manifest["clips"] == given.train
    assert manifest["data"] in checked
    assert manifest["data"] == listed["fingerprint"]
    assert results["tasks"] == given.tasks
    assert results["tasks_done"] == 3
    assert results["metrics"]["retrieval"]["gallery"] == sum(given.eval)
    for direction in ("a2v", "v2a"):
        assert len(results["metrics"]["retrieval"]["measures"][f"{direction}/R@10"]["matrix"]) == 3
    assert list(results["bad_clips"].values()) == list(given.faults.values())

    evaluated = [dict(item) for task in range(3) for item in clips(given, task)]
    stored = [dict(item) for task in range(3) for item in clips(given, task, store=str(store))]
    assert len(evaluated) == sum(given.eval)
    for one, other in zip(evaluated, stored, strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)

    given.root.rename(tmp_path / "elsewhere")  # the store takes the place of the videos, and of the lists
    again, from_store = run("stored", "--set", f"scenario.store={store}")
    assert again == results
    assert (from_store["clips"], from_store["data"]) == (manifest["clips"], manifest["data"])


def clips(given, task, **more):
    raw = yaml.safe_load(given.file.read_text())
    dataset = scenario_of_files({"scenario": raw["scenario"] | more}).clips(task, "eval")
    return [dataset[number] for number in range(len(dataset))]
