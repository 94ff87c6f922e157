"""A data loader whose processes may be stopped or hang: then it ends with an error, and nothing is left of them."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from avcl.errors import UserError

TIMEOUT = 600.0
"""Seconds that a batch may take which loader processes read, unless a setting says otherwise."""

TICKS = 10


class Loader(DataLoader):
    """torch's, which waits ``patience`` seconds for a batch of its processes, 0 for ever, then kills them: UserError.

    torch's own ``timeout`` does not cover all of the way: a tensor's memory is asked of the process that made it.
    """

    def __init__(self, *args: Any, patience: float = TIMEOUT, **options: Any):
        self.patience = patience
        super().__init__(*args, **options)
        self.worker_init_fn = functools.partial(_begin, os.getpid())

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names its own class
        """The batches; processes start when the first is asked for."""
        if not self.num_workers or not self.patience:
            yield from super().__iter__()
            return
        before = multiprocessing.active_children()
        batches = super().__iter__()
        watch = _Watch([child for child in multiprocessing.active_children() if child not in before], self.patience)
        watch.start()
        try:
            while True:
                try:
                    with watch.waiting():
                        batch = next(batches)
                except StopIteration:
                    return
                yield batch
        except Exception as error:
            if not watch.fired:
                raise
            raise UserError(
                f"no loader worker has delivered a batch for {self.patience:g} seconds: they hang, or were stopped; "
                "see whether their files can be read; learner.loader_timeout is how long to wait, 0 for ever"
            ) from error
        finally:
            watch.over.set()


def _begin(parent: int, worker: int) -> None:
    """End where the process that wanted this one was killed before it began: torch only sees what happens later."""
    if os.getppid() != parent:
        os._exit(1)


class _Watch(threading.Thread):
    """Kills processes where what they are waited for takes ``seconds``, in which this one was not stopped itself."""

    def __init__(self, processes: Sequence[BaseProcess], seconds: float):
        super().__init__(daemon=True)
        self.processes, self.seconds = processes, seconds
        self.over, self.fired = threading.Event(), False
        self._asked, self._answered = 0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within this block a batch is waited for."""
        self._asked += 1
        try:
            yield
        finally:
            self._answered += 1

    def run(self) -> None:
        ticks, last = 0, 0
        while not self.over.wait(self.seconds / TICKS):
            asked = self._asked
            ticks = ticks + 1 if asked == last and asked > self._answered else 0
            last = asked
            if ticks == TICKS:
                self.fired = True
                for process in self.processes:
                    process.kill()
                return


def _wake() -> None:
    """Let stopped processes go on, so that they hear that they are to end: Python waits for them before it ends."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)


multiprocessing.util.Finalize(None, _wake, exitpriority=10)
