"""A run folder: claimed once, written into by its own run alone, every file in it whole or not there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avcl.errors import UserError
from avcl.experiment.manifest import read_manifest, resumed, started
from avcl.utils import atomic, distributed


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
    def checkpoint(self) -> Path:
        """Where this process keeps its state."""
        rank = distributed.rank()
        return self / (f"checkpoint-{rank}.pt" if rank else "checkpoint.pt")

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
        if resume and not self.checkpoint.exists():
            raise UserError(f"{self}: nothing to resume: it holds no {self.checkpoint.name}; leave out --resume")
        if not resume and {"results.json", self.checkpoint.name} & set(files):
            raise UserError(f"{self}: holds a run already; continue it with --resume, or choose another --out")
        content = resumed(then, manifest, self / "run.json") if resume else {**manifest, **started()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self}: cannot be made ({error.strerror}); choose another folder with --out") from None
        return content

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON on rank zero."""
        if distributed.rank() == 0:
            atomic.write_json(self / name, content)

    def _files(self) -> list[str]:
        """What is in the folder; what a killed process had not finished writing counts for nothing."""
        try:
            return sorted(path.name for path in self.path.iterdir() if path.suffix != ".writing")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{self}: cannot be read ({error.strerror}); choose another folder with --out") from None
