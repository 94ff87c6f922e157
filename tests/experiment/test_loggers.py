"""Metrics, loggers and callbacks that a run file picks by name: what they write, on resume too."""

import csv
import importlib.util
import json
import sys

import pytest

from avcl.errors import SettingsError, StoppedError, UserError
from avcl.experiment.run import Run
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import Noise, small_backbone
from avcl.training.callbacks import EarlyStopping, LrSchedule


def make_run(folder, **more):
    return Run(
        scenario=Noise(),
        backbone=small_backbone(seed=0),
        strategies=[Finetune()],
        folder=folder,
        learner={"epochs": 2, "batch_size": 4, "lr": 1e-3},
        settings={"seed": 0},
        **more,
    )


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if "speed" not in row["tag"]]


def interrupted(run, after):
    """Stop ``run`` as a signal would, once so many batches were trained on, and go on with another one."""
    from avcl.experiment import run as module

    class Asking(module.Stopping):
        @property
        def asked(self):
            return "SIGTERM" if learners and learners[0].clock.train_iterations >= after else None

        @asked.setter
        def asked(self, value):
            pass

    learners, make = [], run.learner
    run.learner = lambda *a, **more: learners.append(make(*a, **more)) or learners[0]
    kept, module.Stopping = module.Stopping, Asking
    try:
        with pytest.raises(StoppedError):
            run.train()
    finally:
        module.Stopping = kept


def test_csv_is_the_same_after_a_resume_and_there_is_nothing_else(tmp_path):
    """The schedule's steps, early stopping's count and the rows of the file go on where the run was stopped."""

    def one(name):
        callbacks = [LrSchedule(warmup=2), EarlyStopping(patience=1, margin=100)]
        return make_run(tmp_path / name, loggers=[{"name": "csv"}], callbacks=callbacks, evaluate_every=2)

    results = one("whole").train()
    interrupted(one("parts"), after=6)
    assert one("parts").train(resume=True) == results
    found, expected = rows(tmp_path / "parts"), rows(tmp_path / "whole")
    assert [(row["step"], row["tag"]) for row in found] == [(row["step"], row["tag"]) for row in expected]
    assert [row for row in found if row["tag"].startswith("eval")] == [
        r for r in expected if r["tag"].startswith("eval")
    ]
    assert {"eval/a2v/R@10/average", "eval/a2v/R@10/anytime", "train/loss/total"} <= {row["tag"] for row in found}
    assert max(int(row["step"]) for row in found) == 8  # of 16: both tasks were stopped after their fourth batch
    assert not list((tmp_path / "whole").glob("events*"))
    manifest = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert manifest["needs_boundaries"] is True


def test_metrics_by_name(tmp_path):
    run = make_run(tmp_path / "run", metrics=[{"name": "train/loss"}], loggers=[{"name": "csv"}])
    assert run.train()["metrics"] == {}
    assert all(row["tag"].startswith("train/") for row in rows(tmp_path / "run"))


@pytest.mark.parametrize(
    ("picks", "told"),
    [
        ({"metrics": [{"name": "retreival"}]}, "metrics.0.name: unknown metric 'retreival'; did you mean 'retrieval'?"),
        ({"loggers": [{"name": "cvs"}]}, "loggers.0.name: unknown logger 'cvs'; did you mean 'csv'?"),
        ({"loggers": [{"name": "csv", "file": "a"}]}, "loggers.0.file: unknown setting"),
        (
            {"loggers": [{"name": "csv"}, {"name": "wandb", "mode": "of"}]},
            "loggers.1.mode: invalid value 'of': must be 'online' or 'offline'",
        ),
    ],
)
def test_a_wrong_pick_leaves_nothing_in_the_folder(tmp_path, picks, told):
    with pytest.raises(SettingsError) as caught:
        make_run(tmp_path / "run", **picks).train()
    assert str(caught.value) == told
    assert not list((tmp_path / "run").glob("*"))


def test_without_wandb_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"^loggers: wandb needs a missing package; run `python -m pip install wandb`$"):
        make_run(tmp_path / "run", loggers=[{"name": "wandb"}]).train()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the package wandb is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_offline_keeps_everything_in_the_run_folder(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    logged = []
    monkeypatch.setattr(wandb.Run, "log", lambda self, values: logged.append((self.id, self.project, values)))
    make_run(tmp_path / "run", loggers=[{"name": "wandb", "mode": "offline", "project": "mine"}]).train()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {part[:2] for part in logged} == {((tmp_path / "run" / "wandb-id.txt").read_text(), "mine")}
    tags = {tag for _, _, values in logged for tag in values}
    assert {"step", "train/loss/total", "eval/v2a/R@1/average"} <= tags
