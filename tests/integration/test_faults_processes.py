"""Loader processes that are killed or stopped, too many open files: one line, code 2, and nothing is left of them."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from helpers.damage import avcl, faulty, run_file

__all__ = ["faulty"]

pytestmark = [pytest.mark.process]

KILLED = (
    "was killed, maybe for want of memory; lower learner.workers (--workers) or learner.batch_size "
    "(--batch-size), then run the command again, with --resume where it trains\n"
)
LONG = """
device: cpu
scenario: {name: synthetic, tasks: 2, classes: 2, train_clips: 32, eval_clips: 4, height: 32, width: 32, object: 0.5}
backbone: {name: cav-mae, size: tiny}
learner: {epochs: 1000, batch_size: 4, workers: 2}
"""


def struck(words, number, **environment):
    """The command, whose first loader process gets a signal: exit code, standard error; no process of it is left."""
    command = [sys.executable, "-m", "avcl", *map(str, words)]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env={**os.environ, **environment}, **streams) as run:
        workers = []
        while run.poll() is None and len(workers) < 2:
            time.sleep(0.05)
            with contextlib.suppress(FileNotFoundError), open(f"/proc/{run.pid}/task/{run.pid}/children") as file:
                workers = list(map(int, file.read().split()))
        os.kill(workers[0], number)
        _, told = run.communicate()
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    return run.returncode, told


def test_a_killed_worker_is_told_by_training(tmp_path):
    words = ["train", run_file(tmp_path, text=LONG), "--out", tmp_path / "run"]
    code, told = struck(words, signal.SIGKILL)
    assert told.startswith("avcl: a loader worker (process ")
    assert told.endswith(KILLED)
    assert (code, told.count("\n")) == (2, 1)
    assert not list(tmp_path.rglob("*.writing"))


@pytest.mark.slow
def test_a_killed_worker_is_told_by_an_evaluation(tmp_path, faulty):
    """Which reads more clips than its processes have read by the time that one of them is killed."""
    config = run_file(tmp_path)
    assert avcl("train", config, "--out", tmp_path / "run")[0] == 0
    words = ["eval", tmp_path / "run", "linear_probe", "--workers", "2", "--batch-size", "1"]
    code, told = struck([*words, "--set", "scenario.clips_per_task=4000"], signal.SIGKILL, PYTHONPATH=str(faulty))
    assert told.startswith("avcl: a loader worker (process ")
    assert told.endswith(KILLED)
    assert (code, told.count("\n")) == (2, 1)


def test_a_stopped_worker_ends_the_run_after_the_timeout(tmp_path):
    asked = ["--out", tmp_path / "run", "--set", "learner.loader_timeout=2"]
    assert struck(["train", run_file(tmp_path, text=LONG), *asked], signal.SIGSTOP) == (
        2,
        "avcl: no loader worker has delivered a batch for 2 seconds: they hang, or were stopped; see whether their "
        "files can be read; learner.loader_timeout is how long to wait, 0 for ever\n",
    )


OPEN = (
    "avcl: too many open files; raise the limit, as by `ulimit -n 65536`, or lower the number of loader workers "
    "(learner.workers, --workers)\n"
)


@pytest.mark.usefixtures("faulty")
def test_too_many_open_files_say_which_limit(tmp_path):
    config, before = run_file(tmp_path), resource.getrlimit(resource.RLIMIT_NOFILE)
    assert avcl("train", config, "--out", tmp_path / "first")[0] == 0  # opens what Python opens to import it
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        os.close(held.pop())  # for the run file
        assert avcl("train", config, "--out", tmp_path / "run") == (2, OPEN)
    finally:
        for one in held:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
def test_too_many_open_files_for_loader_processes_say_so_too(tmp_path):
    config = run_file(tmp_path, text=LONG)
    asked = f"ulimit -n 24; exec {sys.executable} -m avcl train {config} --out {tmp_path}/run --set learner.workers=4"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert (done.returncode, OPEN in done.stderr) == (2, True)  # Python's and torch's threads may complain beside it
