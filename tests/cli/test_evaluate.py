"""`avcl eval` as a user types it: a run, bare weights, published layouts, and every mistake in a line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.material import write_clip
from helpers.miniature import SMALL, ave, msrvtt
from typer.testing import CliRunner

from avcl.backbones.cavmae import CavMae
from avcl.backbones.weights import load_weights, save_weights
from avcl.cli.main import app
from avcl.experiment.evaluating import Evaluating

WEIGHTS = Path(__file__).parents[2] / "scenarios" / "weights" / "synthetic.safetensors"


def command(*words):
    return CliRunner().invoke(app, ["eval", *map(str, words)])


def done(*words):
    result = command(*words)
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def refused(*words):
    result = command(*words)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    return result.stderr.removeprefix("avcl: ").rstrip("\n")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one step a task that has come to its end."""
    folder = tmp_path_factory.mktemp("runs") / "er"
    scenario = {"name": "synthetic", "tasks": 2, "classes": 2, "train_clips": 8, "eval_clips": 4, "pretraining": 0}
    metrics = ["retrieval", {"name": "classification", "epochs": 2, "views": 1}, {"name": "knn", "neighbours": 3}]
    file = folder.with_suffix(".yaml")
    raw = {"scenario": scenario, "backbone": {"name": "cav-mae", "size": "tiny"}, "metrics": metrics}
    learner = {"epochs": 1, "batch_size": 16}
    file.write_text(yaml.safe_dump(raw | {"strategy": {"name": "stella", "heads": 4}, "learner": learner}))
    result = CliRunner().invoke(app, ["train", str(file), "--out", str(folder), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "er"))


def test_a_run_picks_evaluations_as_metrics(finished):
    metrics = json.loads((finished / "results.json").read_text())["metrics"]
    assert set(metrics) == {"retrieval", "classification", "knn"}
    assert metrics["classification"]["settings"]["epochs"] == 2
    after = metrics["classification"]["after_tasks"]
    assert [set(found["scores"]) for found in after] == [{"top1", "top5"}] * 2
    assert after[0]["chance"]["top1"] == 25.0
    assert 0 <= metrics["knn"]["after_tasks"][1]["scores"]["accuracy"] <= 100
    events = b"".join(path.read_bytes() for path in finished.glob("events*"))
    assert b"eval/classification/top1" in events
    assert b"eval/knn/accuracy" in events


def test_evaluations_of_a_run_are_added_to_its_file(run):
    lines = done(run, "retrieval", "knn", "--set", "knn.neighbours=3")
    assert lines[-1].replace(" ", "").endswith("evaluations.json")
    assert "knn score chance better" in lines
    found = json.loads((run / "evaluations.json").read_text())
    assert list(found) == ["retrieval", "knn"]
    results = json.loads((run / "results.json").read_text())["metrics"]
    for key, measure in results["retrieval"]["measures"].items():
        assert found["retrieval"]["scores"][key] == pytest.approx(measure["average"][-1]), "as the run itself says"
    knn = found["knn"]
    assert knn["scores"] == results["knn"]["after_tasks"][-1]["scores"]
    assert (knn["settings"]["neighbours"], knn["clips"], knn["seed"]) == (3, 16, 0)
    assert knn["chance"] == {"accuracy": 25.0}
    before = (run / "evaluations.json").read_text()
    done(run, "knn", "--set", "knn.neighbours=3", "--batch-size", "5", "--workers", "1")
    assert (run / "evaluations.json").read_text() == before, "whatever batch and workers"
    done(run, "linear_probe")
    assert list(json.loads((run / "evaluations.json").read_text())) == ["retrieval", "knn", "linear_probe"]


def test_a_run_on_another_scenario_has_a_key_of_its_own(run, tmp_path):
    (tmp_path / "other.yaml").write_text("scenario: {name: synthetic, tasks: 1, eval_clips: 2}\n")
    done(run, "retrieval", "--config", tmp_path / "other.yaml")
    found = json.loads((run / "evaluations.json").read_text())
    assert list(found) == ["retrieval on synthetic"]
    assert found["retrieval on synthetic"]["clips"] == 8


def test_the_modules_of_a_run_are_there(run):
    modules = Evaluating(run, ["retrieval"], device="cpu").model.modules
    matching = load_weights(run / "weights.safetensors").states["matching"]
    assert all(torch.equal(value, matching[key]) for key, value in modules["matching"].state_dict().items())
    bundled = Evaluating(WEIGHTS, ["retrieval"], device="cpu").model.modules
    assert list(bundled) == ["matching"]


SMALLEST = {
    "retrieval": (),
    "retrieval_finetuned": ("epochs=1", "train_clips=48"),
    "classification": ("epochs=8", "train_clips=160", "views=1", "lr=2e-3"),
    "knn": ("train_clips=160",),
    "linear_probe": ("train_clips=160",),
    "event_localization": ("epochs=10", "train_clips=96"),
}
"""Every evaluation in its smallest form, on the bundled weights and twice two classes."""
HEADLINE = {"classification": "top1", "event_localization": "balanced_accuracy", "knn": "accuracy"}


def test_every_evaluation_is_above_chance_in_its_smallest_form(tmp_path):
    sets = [f"{name}.{one}" for name, some in SMALLEST.items() for one in some]
    sets += [f"scenario.{one}" for one in ("tasks=2", "classes=2", "eval_clips=12")]
    out = tmp_path / "deep" / "scores.json"
    done(WEIGHTS, *SMALLEST, *(word for one in sets for word in ("--set", one)), "--out", out, "--device", "cpu")
    found = json.loads(out.read_text())
    assert list(found) == list(SMALLEST)
    for name, entry in found.items():
        score = HEADLINE.get(name, "accuracy" if "accuracy" in entry["scores"] else "a2v/R@10")
        assert entry["scores"][score] > 1.3 * entry["chance"][score], (name, entry["scores"])


@pytest.mark.slow
def test_the_defaults_reach_what_was_asked_of_them(tmp_path):
    done(WEIGHTS, "classification", "event_localization", "--out", tmp_path / "scores.json", "--device", "cpu")
    found = json.loads((tmp_path / "scores.json").read_text())
    one, two = found["classification"], found["event_localization"]
    assert one["scores"]["top1"] > 3 * one["chance"]["top1"]
    assert two["scores"]["balanced_accuracy"] > 2 * two["chance"]["balanced_accuracy"]
    assert two["scores"]["accuracy"] > two["chance"]["accuracy"]


# ---- published layouts -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights for clips as small as those of the miniatures."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(0)
    sizes = {key: SMALL[key] for key in ("frames", "height", "width", "times", "mels")}
    save_weights(path, CavMae(size="tiny", dim=48, depth=1, **sizes))
    return path


def data(*words):
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_ave_is_checked_prepared_and_evaluated_alike(tmp_path, weights):
    root = ave(tmp_path / "AVE_Dataset")
    file = tmp_path / "ave.yaml"
    scenario = {"name": "ave", "root": str(root), **SMALL, "seconds": 3.0}
    file.write_text(yaml.safe_dump({"scenario": scenario}))
    lines = data("check", file)
    assert "train ave 6 6" in lines
    assert "eval ave 4 4" in lines
    quick = [f"{name}.epochs=3" for name in ("event_localization", "classification")]
    words = ("event_localization", "classification", *(word for one in quick for word in ("--set", one)))
    one = tmp_path / "files.json"
    done(weights, *words, "--config", file, "--out", one, "--device", "cpu")
    data("prepare", file, "--out", tmp_path / "store", "--codec", "png", "--workers", 1)
    shutil.rmtree(root)  # a store needs neither lists nor videos
    two = tmp_path / "store.json"
    stored = ("--set", f"scenario.store={tmp_path / 'store'}")
    done(weights, *words, "--config", file, *stored, "--out", two, "--device", "cpu")
    found, again = (json.loads(path.read_text()) for path in (one, two))
    assert found["event_localization"]["segments"] == 3
    assert (found["event_localization"]["labels"], found["event_localization"]["clips"]) == (3, 4)
    assert found["classification"]["classes"] == 2
    for name in found:
        assert found[name]["scores"] == again[name]["scores"]


def test_msrvtt_is_fine_tuned_on_and_retrieved(tmp_path, weights):
    root = msrvtt(tmp_path / "MSRVTT", write_clip(tmp_path / "good.mp4", seconds=2, size=(64, 48)))
    file = tmp_path / "msrvtt.yaml"
    file.write_text(yaml.safe_dump({"scenario": {"name": "msrvtt", "root": str(root), **SMALL}}))
    assert "eval msrvtt 3 3" in data("check", file)
    out = tmp_path / "scores.json"
    done(weights, "retrieval_finetuned", "--config", file, "--set", "retrieval_finetuned.epochs=2", "--out", out)
    found = json.loads(out.read_text())["retrieval_finetuned"]
    assert (found["clips"], found["training_clips"]) == (3, 4)
    assert found["chance"]["a2v/R@1"] == pytest.approx(100 / 3)


# ---- mistakes ------------------------------------------------------------------------------------------------


def test_mistakes_in_the_command_are_told_in_a_line(tmp_path, run):
    assert refused(WEIGHTS, "clasification") == "unknown evaluation 'clasification'; did you mean 'classification'?"
    assert refused(tmp_path / "no.safetensors", "knn") == f"{tmp_path}/no.safetensors: no such file"
    told = refused(WEIGHTS, "knn", "--set", "knn.neighbors=3", "--set", "knn.temperature=0")
    assert told.splitlines() == [
        "knn.temperature: invalid value 0: must be greater than 0",
        "      knn.neighbors: unknown setting; did you mean 'neighbours'?",
    ]
    assert refused(WEIGHTS, "knn", "--set", "scenaro.seed=3") == (
        "--set scenaro.seed=3: nothing is called 'scenaro'; did you mean 'scenario'?"
    )
    assert refused(WEIGHTS, "knn", "--set", "knn=3") == "knn: invalid value 3: must be settings, as in knn.epochs=5"
    assert refused(WEIGHTS, "knn", "--device", "gpu") == (
        "device: invalid value 'gpu': must be auto, cpu, cuda or cuda:N"
    )
    (run / "weights.safetensors").unlink()
    assert refused(run, "knn") == (
        f"{run}: holds no weights.safetensors: the run has not come to its end; name a finished run or a weights file"
    )
    assert "no run folder" in refused(tmp_path, "knn")


def test_weights_must_fit_the_clips(weights):
    assert refused(weights, "retrieval") == (
        f"{weights}: was trained on other clips than scenario 'synthetic' has: height 64 instead of 32, width 64 "
        "instead of 32, times 256 instead of 128, mels 64 instead of 32; name a run file of fitting clips with "
        "--config, or change the scenario with --set scenario.KEY=VALUE"
    )


def test_a_scenario_must_have_what_an_evaluation_needs(tmp_path, weights):
    clip = write_clip(tmp_path / "good.mp4", seconds=2, size=(64, 48))
    for number in range(4):
        path = tmp_path / "root" / "task" / "class" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)
    file = tmp_path / "folder.yaml"
    file.write_text(yaml.safe_dump({"scenario": {"name": "folder", "root": str(tmp_path / "root"), **SMALL}}))
    assert refused(weights, "event_localization", "--config", file).splitlines()[-1] == (
        "event_localization: clips of scenario 'folder' have no event in time; 'ave' and 'synthetic' do: "
        "name one with --config"
    )


def test_a_damaged_file_of_scores_is_left_as_it_is(run):
    (run / "evaluations.json").write_text("{")
    told = refused(run, "retrieval")
    assert told.startswith(f"{run}/evaluations.json: damaged (")
    assert told.endswith("restore it, or choose another file with --out")
    assert (run / "evaluations.json").read_text() == "{"
