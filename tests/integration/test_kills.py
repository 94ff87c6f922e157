"""`avcl train`, killed again and again: the same bytes as without, whatever the workers, and in several processes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers.processes import children

KILLS = 10
ASKED = ["--set", "learner.epochs=1", "--set", "strategy.name=stella"]


def command(folder, workers, *more):
    asked = [*ASKED, "--set", f"learner.workers={workers}", "--out", str(folder), *more]
    return [sys.executable, "-m", "avcl", "train", "run", *asked]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    begun = time.monotonic()
    done = subprocess.run(command(folder, 0), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(uninterrupted, tmp_path, workers):
    """Saved after tasks alone, as by default, or within them, too: that may change from one resume to the next."""
    whole, seconds = uninterrupted
    folder, chance, kills, ends = tmp_path / "run", random.Random(workers), 0, 0
    while kills < KILLS or not ends:
        resume = ["--resume"] if list(folder.glob("checkpoint/*.pt")) else []
        often = ["--set", "checkpoint.every_steps=5"] if chance.random() < 0.5 else []
        with subprocess.Popen(command(folder, workers, *resume, *often), stderr=subprocess.PIPE, text=True) as run:
            try:
                _, said = run.communicate(timeout=chance.uniform(0.1, 0.5) * seconds if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                run.kill()
                kills += 1
                continue
        assert run.returncode == 0, said
        for name in ("results.json", "weights.safetensors"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), f"{name} after {kills} kills"
        shutil.rmtree(folder)
        ends += 1


SMALL = {
    "scenario.tasks": 2,
    "scenario.train_clips": 10,
    "scenario.eval_clips": 5,
    "learner.epochs": 2,
    "learner.batch_size": 10,
    "learner.eval_batch_size": 7,
    "evaluate_every": 4,
}
SEVEN = {
    "stella": (1, 0),
    "er": (1, 2),
    "mir": (1, 2),
    "stella-plus": (2, 0),
    "esmer": (2, 2),
    "gmed": (2, 0),
    "cls-er": (2, 2),
}
"""Strategies, each with a number of processes and of loader workers."""


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("strategy", SEVEN)
def test_whichever_process_is_killed_the_run_ends_with_the_same_bytes(tmp_path, strategy):
    """Six kills of any of them, also within evaluation and while a checkpoint is written, after every step."""
    processes, workers = SEVEN[strategy]
    settings = SMALL | {"learner.workers": workers, "checkpoint.every_steps": 1}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    asked = ["run", "--strategy", strategy, "--processes", str(processes), *sets]
    run = [sys.executable, "-m", "avcl", "train", *asked]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    begun = time.monotonic()
    whole, folder = tmp_path / "whole", tmp_path / "run"
    subprocess.run([*run, "--out", str(whole)], capture_output=True, check=True, env=environment)
    seconds, chance, kills, ends = time.monotonic() - begun, random.Random(strategy), 0, 0
    while kills < 6 or not ends:
        resume = ["--resume"] if list(folder.glob("checkpoint/*.pt")) else []
        words = [*run, "--out", str(folder), *resume]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
            try:
                _, said = process.communicate(timeout=chance.uniform(0.3, 0.9) * seconds if kills < 6 else None)
            except subprocess.TimeoutExpired:
                os.kill(chance.choice([process.pid, *children(process)]), signal.SIGKILL)
                kills += 1
                process.communicate(timeout=60)  # none is left behind
                continue
        assert process.returncode == 0, said
        for name in ("results.json", "weights.safetensors"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), f"{name} after {kills} kills"
        shutil.rmtree(folder)
        ends += 1
