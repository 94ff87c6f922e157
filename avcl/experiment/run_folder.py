"""A run folder: claimed once, and every file in it whole or not there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from avcl.errors import UserError
from avcl.utils import atomic, distributed

DISTRIBUTIONS = ("avcl", "torch", "torchaudio", "torchvision", "avalanche-lib", "timm", "av", "numpy")


class RunFolder:
    """Where a run keeps what it found."""

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

    def claim(self, resume: bool) -> None:
        """Make the folder; UserError when it holds a run already, or nothing to resume."""
        if resume and not self.checkpoint.exists():
            raise UserError(f"{self}: nothing to resume: it holds no {self.checkpoint.name}; leave out --resume")
        if not resume and any((self / name).exists() for name in ("results.json", self.checkpoint.name)):
            raise UserError(f"{self}: holds a run already; continue it with --resume, or choose another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self}: cannot be made ({error.strerror}); choose another folder with --out") from None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON on rank zero. ``run.json`` also says how the run was started, and with what."""
        if distributed.rank() == 0:
            atomic.write_json(self / name, {**content, **_started()} if name == "run.json" else content)


def _started() -> dict[str, Any]:
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in DISTRIBUTIONS},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of avcl's own source, ``+changes`` if it was edited since; None outside of a clone."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
