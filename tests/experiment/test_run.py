"""A whole run: its folder, its tags, the same bytes twice, and going on after a kill."""

import io
import json
import os
import signal
import time

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avcl.backbones.weights import load_state, load_weights
from avcl.errors import StoppedError, UserError
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.finetune import Finetune
from avcl.report.tables import run_tables
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner
from avcl.training.saving import Saving


def make_run(folder, strategy=None, seed=0, scenario=None, **learner):
    settings = {"epochs": 2, "batch_size": 4, "lr": 1e-3}
    return Run(
        scenario=scenario or Noise(),
        backbone=small_backbone(seed=seed),
        strategies=[strategy or DERpp(memory=Memory(capacity=8))],
        folder=folder,
        learner=settings | learner,
        seed=seed,
        settings={"seed": seed},
    )


def a_second_later():
    """TensorBoard reads files in the order of their names, which hold the second of their making."""
    time.sleep(1.1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that went through, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "with a space"
    run = make_run(folder)
    return run, run.train(), folder


def test_the_folder_is_complete(finished):
    _, results, folder = finished
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert names == {"run", "results", "efficiency", "checkpoint", "weights", "README", "events"}
    assert json.loads((folder / "results.json").read_text()) == results
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["versions"]["avalanche-lib"] == "0.6.0"
    assert {"settings", "command", "commit", "plugins", "device", "seed", "needs_boundaries"} <= manifest.keys()
    assert manifest["clips"] == [16, 16]
    card = (folder / "README.md").read_text()
    assert "# derpp on noise, seed 0" in card
    assert "| task_1 |" in card


def test_tensorboard_has_every_tag(finished):
    _, results, folder = finished
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    expected = {f"train/loss/{key}" for key in ("mae_audio", "mae_video", "contrastive", "drift", "total")}
    expected |= {"train/speed/clips_per_second", "train/speed/peak_memory_mib", "train/derpp/memory_bytes"}
    expected.add("eval/gallery")
    for direction in ("a2v", "v2a"):
        for measure in ("R@1", "R@5", "R@10", "R@mean", "median_rank"):
            for part in ("task_0", "task_1", "average", "learning_accuracy", "forgetting", "chance"):
                expected.add(f"eval/{direction}/{measure}/{part}")
    assert expected <= tags
    average = [event.value for event in events.Scalars("eval/a2v/R@10/average")]
    assert average == pytest.approx(results["metrics"]["retrieval"]["measures"]["a2v/R@10"]["average"])
    assert [event.step for event in events.Scalars("eval/a2v/R@10/average")] == [8, 16]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_gives_the_same_bytes(finished, tmp_path, workers):
    _, _, folder = finished
    make_run(tmp_path / "again", workers=workers).train()
    assert (tmp_path / "again" / "results.json").read_bytes() == (folder / "results.json").read_bytes()


def test_another_seed_gives_other_results(finished, tmp_path):
    make_run(tmp_path / "other", seed=1).train()
    measures = [json.loads((f / "results.json").read_text())["metrics"] for f in (finished[2], tmp_path / "other")]
    assert measures[0] != measures[1]


def test_weights_load_into_a_new_backbone(finished):
    run, _, folder = finished
    backbone = small_backbone(seed=5)
    load_state(backbone, load_weights(folder / "weights.safetensors").states["backbone"], "weights")
    for ours, theirs in zip(backbone.parameters(), run.backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_is_never_overwritten(finished):
    _, _, folder = finished
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds a run already; continue it with --resume, or choose another --out"):
        make_run(folder).train()
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match=r"nothing to resume: it holds no checkpoint; leave out --resume"):
        make_run(tmp_path / "new").train(resume=True)


@pytest.mark.parametrize("stop", [3, 8, 13])
def test_a_killed_run_resumes_to_the_same_bytes(finished, tmp_path, monkeypatch, stop):
    """Killed between two batches after a checkpoint within the task; events after it are not shown twice."""
    _, _, whole = finished
    killed = make_run(tmp_path / "killed")
    killed.checkpoint = Saving(every_steps=1)
    save = Run._save

    def save_then_die(self, learner, evaluation_due=False):
        save(self, learner, evaluation_due)
        if learner.clock.train_iterations == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    monkeypatch.setattr(Run, "_save", save)
    a_second_later()
    make_run(tmp_path / "killed").train(resume=True)
    assert (tmp_path / "killed" / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (tmp_path / "killed", whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    events = EventAccumulator(str(tmp_path / "killed"))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/a2v/R@10/average")] == [8, 16]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_waits_for_the_batch_and_loses_nothing(finished, tmp_path, monkeypatch, name):
    stopped = make_run(tmp_path / "stopped")
    iteration = Learner.training_iteration

    def signalled(self, **kwargs):
        if self.clock.train_iterations == 4:
            os.kill(os.getpid(), getattr(signal, name))
        iteration(self, **kwargs)

    monkeypatch.setattr(Learner, "training_iteration", signalled)
    with pytest.raises(StoppedError, match=f"stopped by {name} after step 5; continue with --resume"):
        stopped.train()
    monkeypatch.setattr(Learner, "training_iteration", iteration)
    make_run(tmp_path / "stopped").train(resume=True)
    assert (tmp_path / "stopped" / "results.json").read_bytes() == (finished[2] / "results.json").read_bytes()


@pytest.mark.parametrize(("evaluation", "step"), [(2, 6), (3, 8)])  # within the first task, and at its end
def test_a_signal_is_heard_in_an_evaluation_which_is_made_up_for(tmp_path, monkeypatch, evaluation, step):
    def made(name):
        run = make_run(tmp_path / name)
        run.evaluate_every = 3
        return run

    whole, heard, embed = made("whole").train(), [], Learner._before_eval_forward

    def signalled(self, **kwargs):
        heard.append(self.steps)
        if len(heard) == 2 * evaluation - 1:  # in the first of the two batches of an evaluation
            os.kill(os.getpid(), signal.SIGTERM)
        embed(self, **kwargs)

    monkeypatch.setattr(Learner, "_before_eval_forward", signalled)
    with pytest.raises(StoppedError, match=f"stopped by SIGTERM after step {step};"):
        made("stopped").train()
    monkeypatch.setattr(Learner, "_before_eval_forward", embed)
    before = json.loads((tmp_path / "stopped" / "results.json").read_text())["metrics"]["retrieval"]
    assert made("stopped").train(resume=True) == whole
    assert before["measures"] != whole["metrics"]["retrieval"]["measures"]
    for name in ("results.json", "weights.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_killed_before_its_first_checkpoint_starts_anew(finished, tmp_path, monkeypatch):
    """There is nothing to lose and nothing to resume; what it showed in TensorBoard is taken back."""

    def die(self, stream, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Learner, "eval", die)
        make_run(tmp_path / "killed").train()
    a_second_later()
    make_run(tmp_path / "killed").train()
    assert (tmp_path / "killed" / "results.json").read_bytes() == (finished[2] / "results.json").read_bytes()
    events = EventAccumulator(str(tmp_path / "killed"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss/total")] == [4, 8, 10, 12, 16]


def test_a_dry_run_writes_nothing(tmp_path):
    run = make_run(tmp_path / "dry", accumulate=2)
    told = run.dry_run()
    assert not (tmp_path / "dry").exists()
    assert told["steps"] == "8 of 8 clips"
    assert told["clips"] == "task_0 16, task_1 16"
    assert told["parameters"].startswith(f"{sum(p.numel() for p in run.backbone.parameters()):,} of the backbone, 0 ")
    item = 4 * (8 * 768 + 8 * 256) + 2 * 16 + 8 + 2 * 4 * 24
    assert f"{8 * item / 2**20:,.1f} MiB in the replay buffer when full" in told["memory"]


def test_bad_clips_are_in_the_results(tmp_path):
    run = make_run(tmp_path / "bad", Finetune(), scenario=Noise(bad=(3,)))
    assert run.train()["bad_clips"] == {
        "train-0-3": "made bad by the test",
        "train-1-3": "made bad by the test",
    }


def test_a_folder_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: cannot be made \(Not a directory\); choose another folder"):
        make_run(tmp_path / "file" / "run").train()


def test_the_table_has_a_row_for_each_task(finished):
    _, results, _ = finished
    measure = results["metrics"]["retrieval"]["measures"]["a2v/R@mean"]
    console = Console(width=200, file=io.StringIO())
    console.print(run_tables(results)[0])
    text = console.file.getvalue()
    assert [line.split()[0] for line in text.splitlines() if "task_" in line][1:] == ["task_0", "task_1"]
    assert f"{measure['average'][1]:.1f}" in text


@pytest.mark.parametrize("blend", [0.0, 1.0])
def test_anytime_evaluation_of_a_blurred_stream_resumes_to_the_same_bytes(tmp_path, monkeypatch, blend):
    """Evaluations within tasks change nothing that is trained, and are in results and TensorBoard."""

    def made(name, **more):
        run = make_run(tmp_path / name, scenario=Noise(blend=blend))
        run.evaluate_every, run.checkpoint = more.get("evaluate_every"), Saving(every_minutes=1e-9)
        return run

    plain, results = made("plain").train(), made("often", evaluate_every=3).train()
    found, expected = (tables["metrics"]["retrieval"]["measures"]["a2v/R@mean"] for tables in (results, plain))
    assert {**found, "anytime": None} == {**expected, "anytime": None} and "anytime" not in expected
    assert found["anytime"]["steps"] == [3, 6, 8, 9, 12, 15, 16]
    assert found["anytime"]["average"][2] == found["average"][0]
    assert found["anytime"]["worst_drop"] >= 0
    events = EventAccumulator(str(tmp_path / "often"))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/a2v/R@mean/anytime")] == [3, 6, 8, 9, 12, 15, 16]

    class Killed(BaseException):
        pass

    def killed(self, **kwargs):
        if self.clock.train_iterations == 13:
            raise Killed
        iteration(self, **kwargs)

    iteration = Learner.training_iteration
    monkeypatch.setattr(Learner, "training_iteration", killed)
    with pytest.raises(Killed):
        made("killed", evaluate_every=3).train()
    monkeypatch.setattr(Learner, "training_iteration", iteration)
    made("killed", evaluate_every=3).train(resume=True)
    assert (tmp_path / "killed" / "results.json").read_bytes() == (tmp_path / "often" / "results.json").read_bytes()
