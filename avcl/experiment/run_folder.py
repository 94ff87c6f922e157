"""A run folder: claimed once, written into by its own run alone, every file in it whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from avcl.errors import UserError
from avcl.experiment.checkpoint import Checkpoints
from avcl.experiment.manifest import read_manifest, resumed, started
from avcl.utils import atomic, distributed

LOCK = "run.lock"


class RunFolder:
    """Where a run keeps what it found; ``run.json`` tells that a folder is a run's."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """Where this process keeps its state; true where there is one to resume from."""
        return Checkpoints(self / "checkpoint")

    @property
    def finished(self) -> bool:
        """Whether the run in it came to its end: the model card is what it writes last."""
        return (self / "README.md").exists()

    @property
    def manifest(self) -> dict[str, Any]:
        """What ``run.json`` says of the run; UserError where it is damaged."""
        return read_manifest(self / "run.json")

    def claim(self, manifest: Mapping[str, Any], resume: bool) -> dict[str, Any]:
        """Make the folder for the run that ``manifest`` describes; returns what ``run.json`` shall say.

        UserError where the folder holds other files, or a run already, or what was to be resumed is not
        there or ran with other settings. Nothing in it is changed.
        """
        files = self._files()
        if files and "run.json" not in files:
            shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
            raise UserError(f"{self}: holds other files than a run's ({shown}); choose an empty folder with --out")
        then = self.manifest if files else {}
        if resume and not self.checkpoints:
            old = "checkpoint.pt is an earlier avcl's" if "checkpoint.pt" in files else "it holds no checkpoint"
            raise UserError(f"{self}: nothing to resume: {old}; leave out --resume, with another --out if need be")
        if not resume and {"results.json", "checkpoint", "checkpoint.pt"} & set(files):
            raise UserError(f"{self}: holds a run already; continue it with --resume, or choose another --out")
        content = resumed(then, manifest, self / "run.json") if resume else {**manifest, **started()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self}: cannot be made ({error.strerror}); choose another folder with --out") from None
        return content

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Within this block no other run writes into the folder, which exists; UserError where one does so now."""
        lock = FileLock(self / LOCK, blocking=False)

        def acquire() -> None:
            try:
                lock.acquire()
            except Timeout:
                told = "another process is running in it; wait for it, or choose another --out"
                raise UserError(f"{self}: {told}") from None

        distributed.from_first(acquire)
        try:
            if lock.is_locked:
                atomic.sweep(self.path)
            yield
        finally:
            if lock.is_locked:
                with contextlib.suppress(OSError):  # the folder may be gone, or read-only by now
                    (self / LOCK).unlink(missing_ok=True)
            lock.release()

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON on rank zero."""
        if distributed.rank() == 0:
            atomic.write_json(self / name, content)

    def _files(self) -> list[str]:
        """What is in the folder; what a killed process had not finished writing counts for nothing."""
        try:
            return sorted(path.name for path in self.path.iterdir() if path.suffix != ".writing" and path.name != LOCK)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{self}: cannot be read ({error.strerror}); choose another folder with --out") from None
