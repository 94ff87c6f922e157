"""A run's folder: claimed once, written aside and renamed, so that nothing in it is ever half there."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from avcl.errors import UserError
from avcl.report.tables import matrix_markdown
from avcl.utils import distributed

DISTRIBUTIONS = ("avcl", "torch", "torchaudio", "torchvision", "avalanche-lib", "timm", "av", "numpy")


class Folder:
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
        return self / (f"checkpoint-{distributed.rank()}.pt" if distributed.rank() else "checkpoint.pt")

    @property
    def finished(self) -> bool:
        """Whether the run in it came to its end: the card is what it writes last."""
        return (self / "README.md").exists()

    def claim(self, resume: bool) -> None:
        """Make the folder; UserError when it holds a run already, or nothing to resume."""
        if resume and not self.checkpoint.exists():
            raise UserError(f"{self}: nothing to resume: it holds no {self.checkpoint.name}; leave out --resume")
        if not resume and any((self / name).exists() for name in ("results.json", self.checkpoint.name)):
            raise UserError(f"{self}: holds a run already; go on with --resume, or choose another folder with --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self}: cannot be made ({error.strerror}); choose another folder with --out") from None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON on rank zero. ``run.json`` also says how the run was started, and with what."""
        if distributed.rank() == 0:
            content = {**content, **_started()} if name == "run.json" else content
            self._rename_into_place(name, json.dumps(content, indent=1, default=str) + "\n")

    def write_card(self, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """A model card: what was trained, how, and what came out."""
        tables = "\n\n".join(
            f"{key}, percent\n\n{matrix_markdown(results['tasks'], measure)}"
            for metric in results["metrics"].values()
            for key, measure in metric.get("measures", {}).items()
            if key.endswith("R@10")
        )
        self._rename_into_place(
            "README.md",
            f"# {' + '.join(results['strategy'])} on {results['scenario']}, seed {results['seed']}\n\n"
            "A continual audio-video pre-training run made by avcl. `weights.safetensors` holds the backbone "
            "(and the strategy's modules) after the last task.\n\n"
            f"{tables}\n\n## Settings\n\n```yaml\n{yaml.safe_dump(dict(settings), sort_keys=False)}```\n",
        )

    def _rename_into_place(self, name: str, text: str) -> None:
        aside = self / f"{name}.writing"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, self / name)


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
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
