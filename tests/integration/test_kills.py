"""`avcl train` on the default stream, killed again and again: the same bytes as without, whatever the workers."""

import random
import shutil
import subprocess
import sys
import time

import pytest

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
