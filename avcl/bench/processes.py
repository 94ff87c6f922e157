"""Steps per second in one process with all threads and in several with their share, at the same whole batch."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch.distributed import TCPStore

from avcl.bench.training import machine
from avcl.config.bundled import find_file
from avcl.config.files import read_config
from avcl.experiment.manifest import started
from avcl.experiment.run import Run
from avcl.training.learner import Learner
from avcl.utils import distributed

WARM = 3
"""Steps before the clock is started."""


class _EnoughError(Exception):
    """All steps were taken."""


def measure_processes(strategies: Sequence[str], processes: int, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step, turn by turn, of methods on the rendered stream; ready for JSON."""
    cores = len(os.sched_getaffinity(0))
    found = {}
    for name in strategies:
        raw = read_config(find_file("run"), ["device=cpu"], name)
        turns = [(many, cores // many) for _ in range(rounds) for many in (1, processes)]
        seconds: dict[int, list[float]] = {1: [], processes: []}
        for many, threads in turns:
            seconds[many].append(_turn(raw, many, threads, steps))
        alone, together = statistics.median(seconds[1]), statistics.median(seconds[processes])
        found[name] = {"seconds": seconds, "steps_per_second": [1 / alone, 1 / together], "ratio": alone / together}
    about = {"processes": processes, "cores": cores, "steps": steps, "rounds": rounds}
    return {**about, **started(), "machine": machine(torch.device("cpu")), "strategies": found}


def _turn(raw: Mapping[str, Any], processes: int, threads: int, steps: int) -> float:
    """Mean seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(processes)}
        launched = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        given = (raw, {**meeting, **launched}, threads, steps, folder)
        multiprocessing.spawn(_steps, given, nprocs=processes)
        return float(Path(folder, "seconds").read_text())


def _steps(
    rank: int, raw: Mapping[str, Any], environment: Mapping[str, str], threads: int, steps: int, out: str
) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(threads)
    with distributed.joined("cpu"):
        run = Run.from_config({**raw, "out": str(Path(out, "run"))})
        learner = run.learner()
        begun = 0.0

        def count(learner: Learner) -> None:
            nonlocal begun
            if learner.steps == WARM:
                begun = time.perf_counter()
            if learner.steps == WARM + steps:
                raise _EnoughError

        learner.between_batches = count
        try:
            learner.train(run.benchmark.train_stream)
        except _EnoughError:
            if rank == 0:
                Path(out, "seconds").write_text(str((time.perf_counter() - begun) / steps))
