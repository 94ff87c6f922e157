"""A disk that is full, a folder that is gone or read-only, names that cannot be: one line, code 2, nothing half."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.damage import avcl, faulty, mounted, run_file
from helpers.finished import learned, write_run

from avcl.faults import AGAIN
from avcl.training.callbacks import Callback

__all__ = ["faulty"]

pytestmark = [pytest.mark.process]

FULL = f"no space is left on the disk; free some, {AGAIN}\n"
PAGE = 4096
SIZES = "tasks: 1, classes: 1, train_clips: 1, eval_clips: 1, pretraining: 8, frames: 2, height: 32, width: 32"
SYNTHETIC = ["--set", f"scenario={{{{name: synthetic, {SIZES}, times: 64, mels: 32, object: 0.5}}}}"]


def fill(folder):
    """Fill the disk of ``folder`` to its last byte."""
    with (folder / "others").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE))


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk", "256k") as folder:
        yield folder


@dataclass(kw_only=True, eq=False)
class Damage(Callback):
    """Does what is told after the first step of a run.

    Args:
        folder: Folder to do it to.
        what: fill, remove or lock.
    """

    name = "damage"
    folder: str = ""
    what: str = "fill"

    def after_update(self, strategy, **kwargs):
        if strategy.steps == 1:
            match self.what:
                case "fill":
                    fill(Path(self.folder))
                case "remove":
                    shutil.rmtree(self.folder)
                case "lock":
                    subprocess.run(["mount", "--bind", self.folder, self.folder], check=True)
                    subprocess.run(["mount", "-o", "remount,bind,ro", self.folder], check=True)


def damaging(what, folder):
    return ["--set", f"callbacks=[{{name: '{__name__}:Damage', what: {what}, folder: '{folder}'}}]"]


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("loggers", "where"),
    [
        ("[csv]", "avcl: logger 'csv' (avcl 0.1.0, module avcl.experiment.loggers): "),
        ("[]", "avcl: {run}/results.json: "),
    ],
)
def test_a_disk_that_fills_while_training(tmp_path, disk, loggers, where):
    run = disk / "run"
    words = ["train", run_file(tmp_path), "--out", run, "--set", f"loggers={loggers}", *damaging("fill", disk)]
    words += ["--set", "learner.epochs=20"]  # rows of csv that are more than a page
    code, told = avcl(*words)
    assert (code, told) == (2, where.format(run=run) + FULL)
    assert not list(disk.rglob("*.writing"))


@pytest.mark.usefixtures("faulty")
def test_a_full_disk_under_tensorboards_own_thread_is_heard(tmp_path, capfd):
    with mounted(tmp_path / "disk", "16k") as disk:
        code, told = avcl("train", run_file(tmp_path), "--out", disk / "run", "--set", "loggers=[tensorboard]")
    assert (code, told) == (2, f"avcl: logger 'tensorboard' (avcl 0.1.0, module avcl.experiment.board): {FULL}")
    assert "Exception in thread" not in capfd.readouterr().err


@pytest.mark.usefixtures("faulty")
def test_a_disk_that_has_no_room_for_a_checkpoint_goes_on_where_there_is_room(tmp_path):
    config = run_file(tmp_path)
    with mounted(tmp_path / "disk", "100k") as disk:
        words = ["train", config, "--out", disk / "run", "--set", "loggers=[]"]
        code, told = avcl(*words)
        assert (code, told) == (2, f"avcl: {disk}/run/checkpoint: {FULL}")
        assert not list(disk.rglob("*.writing"))
        assert json.loads((disk / "run" / "results.json").read_text())["tasks_done"] == 1


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["init", "--out", "{disk}/x.yaml"], "x.yaml"),
        (["results", "{runs}", "--out", "{disk}/x.csv"], "x.csv"),
        (["report", "{runs}", "--out", "{disk}/x.html"], "x.html"),
        (["plot", "{runs}", "--out", "{disk}/x.png"], "x.png"),
        (["pretrain", "{config}", *SYNTHETIC, "--out", "{disk}/x.safetensors"], "x.safetensors"),
        (["sweep", "{config}", "--out", "{disk}", "--seeds", "0,"], "sweep.json"),
    ],
)
def test_a_full_disk_under_every_file_that_a_command_writes(tmp_path, disk, words, file):
    write_run(tmp_path / "runs" / "er-0", learned(40, 20))
    fill(disk)
    names = {"disk": disk, "runs": tmp_path / "runs", "config": run_file(tmp_path)}
    code, told = avcl(*(word.format(**names) for word in words))
    assert told.endswith(f"avcl: {disk}/{file}: {FULL}")
    assert code == 2
    assert [path.name for path in disk.iterdir()] == ["others"]


def test_standard_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "avcl", "init", "--list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr == f"avcl: {FULL}"
    assert done.returncode == 2


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize("loggers", ["[]", "[csv]", "[tensorboard]"])
def test_a_run_folder_that_is_removed_while_it_is_written_to(tmp_path, loggers):
    run = tmp_path / "run"
    words = ["train", run_file(tmp_path), "--out", run, "--set", f"loggers={loggers}", *damaging("remove", run)]
    code, told = avcl(*words)
    assert told.startswith(f"avcl: {run}/")
    assert told.endswith(f"no such file or folder; if it was there, bring it back, {AGAIN}\n")
    assert (code, run.exists()) == (2, False)


@pytest.mark.usefixtures("faulty")
def test_a_disk_that_becomes_read_only(tmp_path, disk):
    run = disk / "run"
    words = ["train", run_file(tmp_path), "--out", run, "--set", "loggers=[tensorboard]", *damaging("lock", disk)]
    code, told = avcl(*words)
    assert told.endswith("the file system is read-only; choose another place\n")
    assert code == 2
