"""``--processes``: a command in several processes that are started, watched and ended together."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from avcl.utils import lines

ERRORS = "AVCL_ERRORS"
"""The environment's variable that names the folder for errors of processes that were started here."""

GRACE = 20
"""Seconds that the others have to end by themselves when one has failed: what they are in the midst of is lost."""


def number() -> int:
    """Which of a launcher's processes this is; 0 without one."""
    return int(os.environ.get("RANK", "0"))


def launch(processes: int, words: Sequence[str]) -> int:
    """Run ``avcl`` with these words in so many processes on this machine; the exit code of all.

    As torchrun does for several machines. A signal to stop goes on to all of them. When one fails, all end, and its
    error is the last line.
    """
    import torch.multiprocessing as multiprocessing
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    with tempfile.TemporaryDirectory(prefix="avcl-") as folder, _environment({**shared, ERRORS: folder}):
        started = multiprocessing.start_processes(
            _process, (list(words),), processes, join=False, start_method="spawn"
        ).processes
        with _forwarding(started):
            failed = _watch(started)
        if not failed:
            return 0
        for rank in failed:
            if told := _told(Path(folder), rank):
                lines.say(f"process {rank} of {processes}: {told}")
                return max(1, started[rank].exitcode or 1)
        rank, code = failed[0], started[failed[0]].exitcode or 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        lines.say(f"process {rank} of {processes} {how}; continue with --resume")
        return max(1, code)


def tell(error: BaseException, line: str) -> bool:
    """Leave the one line of an error to whoever started this process; whether that was avcl.

    An error that only says that another process has ended is left out.
    """
    if not (folder := os.environ.get(ERRORS)):
        return False
    if not lost(error):
        Path(folder, f"{number()}.json").write_text(json.dumps({"time": time.time(), "line": line}))
    return True


def lost(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that the connection to another process broke."""
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ProcessGroup", "TCPStore", "NCCL")
    while error is not None:
        if any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def _process(rank: int, words: list[str]) -> None:
    from avcl.cli.main import main

    os.setsid()  # signals of the terminal go to the first process, and come from there
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    sys.argv = ["avcl", *words]
    main()


def _watch(processes: Sequence[BaseProcess]) -> list[int]:
    """Those that failed, in the order in which they did, when all have ended."""
    failed: list[int] = []
    until = None
    while running := [process for process in processes if process.is_alive()]:
        left = None if until is None else max(0.0, until - time.monotonic())
        wait([process.sentinel for process in running], left)
        failed += [n for n, process in enumerate(processes) if process.exitcode and n not in failed]
        if failed and until is None:
            until = time.monotonic() + GRACE
        if until is not None and time.monotonic() >= until:
            for process in running:
                process.kill()
                process.join()
    return failed + [n for n, process in enumerate(processes) if process.exitcode and n not in failed]


def _told(folder: Path, rank: int) -> str:
    file = folder / f"{rank}.json"
    return str(json.loads(file.read_text())["line"]) if file.exists() else ""


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _forwarding(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """What is asked of this process is asked of all."""

    def forward(number: int, frame: Any) -> None:
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
