"""A run's checkpoints: all that training depends on, as tensors, numbers and containers, each named by its SHA-256."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from avcl.errors import UserError
from avcl.utils import distributed
from avcl.utils.atomic import named_by_content

log = logging.getLogger(__name__)

FORMAT = 2
"""Changes whenever an earlier avcl's checkpoint cannot be resumed any more."""


class Checkpoints:
    """The checkpoints of one process in a folder, ``<batches trained on>-<SHA-256>.pt``: the last ``keep`` of them."""

    def __init__(self, folder: Path):
        rank = distributed.rank()
        self.folder = folder / f"rank-{rank}" if rank else folder

    def __bool__(self) -> bool:
        return bool(self._paths())

    def save(self, state: Mapping[str, Any], batches: int, keep: int) -> None:
        """Write ``state``, a learner's and more, after so many batches; a reader never sees half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self._paths()
        with named_by_content(self.folder, f"{batches:010d}-{{}}.pt") as file:
            torch.save({**state, "format": FORMAT}, file)
        new = [path for path in self._paths() if path not in before]
        replaced = [path for path in before if new and path.name[:10] == new[0].name[:10]]
        for path in (*replaced, *self.folder.glob("*.writing")):
            path.unlink()
        for path in self._paths()[:-keep]:
            path.unlink()

    def newest(self) -> dict[str, Any]:
        """The last one that is whole, and names those that are not; executes nothing. UserError if there is none."""
        damaged: list[str] = []
        for path in reversed(self._paths()):
            try:
                state = _read(path)
            except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
                why = str(error).partition("\n")[0].partition(". ")[0]
                damaged.append(f"{path}: damaged ({why})")
            else:
                for line in damaged:
                    log.warning("%s; resumed from the one before it", line)
                return state
        raise UserError("\n".join([*damaged, f"{self.folder}: holds no whole checkpoint; choose another --out"]))

    def _paths(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted(self.folder.glob("*-*.pt"))


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != path.stem.partition("-")[2]:
            raise ValueError("its bytes are not those that were written: their SHA-256 is not that of its name")
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    if state.get("format") != FORMAT:
        told = f"{path}: a checkpoint of format {state.get('format')}, this avcl resumes {FORMAT}"
        raise UserError(f"{told}; resume it with the version that `run.json` names")
    return state
