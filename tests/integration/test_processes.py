"""`avcl train --processes`, as a user types it: stopped, resumed in another number, and one of them killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.processes import children
from safetensors.torch import load_file

SETTINGS = {
    "scenario.train_clips": 6,
    "scenario.eval_clips": 3,
    "scenario.tasks": 2,
    "learner.epochs": 2,
    "learner.batch_size": 7,
    "learner.eval_batch_size": 5,
    "checkpoint.every_steps": 1,
}
SMALL = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def command(folder, *words, strategy="stella"):
    asked = ["run", "--strategy", strategy, "--device", "cpu", *SMALL, "--out", str(folder), *words]
    return [sys.executable, "-m", "avcl", "train", *asked]


def started(*words):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def train(folder, *words, **options):
    process = started(*command(folder, *words, **options))
    said, wrong = process.communicate(timeout=240)
    assert process.returncode == 0, wrong
    return said, wrong


def found(folder):
    """Weights, and the mean recall of every task after every task."""
    results = json.loads((folder / "results.json").read_text())
    measures = results["metrics"]["retrieval"]["measures"]
    return load_file(folder / "weights.safetensors"), {key: value["matrix"] for key, value in measures.items()}


def wait_for(folder, pattern, process, other_than=frozenset()):
    until = time.monotonic() + 120
    while not set(folder.glob(pattern)) - other_than:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(900)
def test_killed_in_two_stopped_under_torchrun_and_ended_in_one_a_run_is_that_of_one(tmp_path):
    train(tmp_path / "alone")
    folder = tmp_path / "run"

    process = started(*command(folder, "--processes", "2"))
    wait_for(folder, "checkpoint/*-1-*.part", process)
    os.kill(children(process)[1], signal.SIGKILL)
    _, wrong = process.communicate(timeout=60)
    assert process.returncode == 1
    assert wrong.strip().splitlines()[-1] == "avcl: process 1 of 2 was killed by SIGKILL; continue with --resume"
    assert "Traceback" not in wrong
    assert json.loads((folder / "run.json").read_text())["processes"] == 2

    before = set(folder.glob("checkpoint/*.pt"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = started(*torchrun, *command(folder, "--resume")[2:])
    wait_for(folder, "checkpoint/*.pt", process, other_than=before)
    for trainer in children(process, named=b"avcl"):
        os.kill(trainer, signal.SIGTERM)
    _, wrong = process.communicate(timeout=120)
    assert process.returncode == 0, wrong
    assert len(re.findall(r"avcl: stopped by SIGTERM after step \d+; continue with --resume", wrong)) == 1

    said, wrong = train(folder, "--resume")
    assert "avcl: resumed in 1 process instead of 2: replayed clips are dealt anew" in wrong
    assert said.count("Everything is in") == 1
    weights, recalls = found(folder)
    expected, same = found(tmp_path / "alone")
    assert recalls == same
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-3)
    assert not list(folder.glob("checkpoint/*.part")), "no more than one process has anything of its own"


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(600)
def test_a_signal_goes_to_all_and_they_stop_at_the_same_step(tmp_path):
    folder = tmp_path / "run"
    process = started(*command(folder, "--processes", "3"))
    wait_for(folder, "checkpoint/*-1-*.part", process)
    process.send_signal(signal.SIGTERM)
    _, wrong = process.communicate(timeout=120)
    assert process.returncode == 0, wrong
    last = wrong.strip().splitlines()[-1]
    assert re.fullmatch(r"avcl: stopped by SIGTERM after step \d+; continue with --resume", last)


@pytest.mark.process
@pytest.mark.timeout(600)
def test_the_error_of_one_ends_all_and_is_the_last_line(tmp_path):
    process = started(*command(tmp_path / "run", "--processes", "2", "--set", "learner.batch_size=1"))
    _, wrong = process.communicate(timeout=60)
    assert process.returncode == 2
    told = "learner.batch_size: invalid value 1: must be at least 2, the number of processes"
    assert re.fullmatch(rf"avcl: process [01] of 2: {told}", wrong.strip().splitlines()[-1])
    assert "Traceback" not in wrong
