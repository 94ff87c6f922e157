"""A run's checkpoints: all that training depends on, as tensors, numbers and containers, each named by its SHA-256."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch

from avcl.errors import UserError
from avcl.utils import distributed
from avcl.utils.atomic import named_by_content

log = logging.getLogger(__name__)

FORMAT = 3
"""Changes whenever an earlier avcl's checkpoint cannot be resumed any more."""


class Checkpoints:
    """The checkpoints of a run in a folder, ``<batches trained on>-<SHA-256>.pt``: the last ``keep`` of them.

    Process 0 writes what all processes share; what each of the others has for itself is beside it, in
    ``<batches trained on>-<process>-<SHA-256>.part``. The first file names those: they are one checkpoint, which is
    whole when all of it is.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __bool__(self) -> bool:
        return bool(self._paths())

    def save(self, state: Mapping[str, Any], batches: int, keep: int) -> None:
        """Write ``state``, a learner's and more, after so many batches; a reader never sees half of it.

        Every process calls it; ``state["own"]`` is what only one of them has.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        part, failed = "", None
        if rank := distributed.rank():
            try:
                part = self._write(state["own"], f"{batches:010d}-{rank}-{{}}.part")
            except OSError as error:
                failed = error
        found = distributed.everyone((part, failed))
        if errors := [error for _, error in found if error is not None]:
            raise errors[0]
        if rank:
            return
        shared = {key: value for key, value in state.items() if key != "own"}
        others = [name for name, _ in found[1:]]
        new = self._write({**shared, "format": FORMAT, "others": others}, f"{batches:010d}-{{}}.pt")
        earlier = [path.name[:10] for path in self._paths() if path.name[:10] != new[:10]]
        kept = earlier[max(0, len(earlier) - keep + 1) :]
        for path in self.folder.iterdir():
            if path.name not in (new, *others) and path.name[:10] not in kept:
                path.unlink()

    def newest(self) -> dict[str, Any]:
        """The last one that is whole, and names those that are not; executes nothing. UserError if there is none.

        ``others`` in it: what processes 1 and on had for themselves.
        """
        path = distributed.from_first(self._newest)
        state = _load(path)
        return {**state, "others": [_load(self.folder / name, mapped=True) for name in state["others"]]}

    def _newest(self) -> Path:
        damaged: list[str] = []
        for path in reversed(self._paths()):
            file = path
            try:
                for file in [self.folder / name for name in _checked(path)["others"]]:
                    _verify(file)
            except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError) as error:
                why = str(error).partition("\n")[0].partition(". ")[0]
                damaged.append(f"{file}: damaged ({why})")
            else:
                for line in damaged:
                    log.warning("%s; resumed from the one before it", line)
                return path
        raise UserError("\n".join([*damaged, f"{self.folder}: holds no whole checkpoint; choose another --out"]))

    def _write(self, state: Any, name: str) -> str:
        """The name of the file with this content; ``{}`` in ``name`` is its hash."""
        with named_by_content(self.folder, name) as file:
            torch.save(state, cast(BinaryIO, file))
        return name.format(file.hexdigest())

    def _paths(self) -> list[Path]:
        """From the oldest to the newest."""
        return sorted(self.folder.glob("*-*.pt"))


def _checked(path: Path) -> dict[str, Any]:
    _verify(path)
    state = _load(path, mapped=True)
    if state.get("format") != FORMAT:
        told = f"{path}: a checkpoint of format {state.get('format')}, this avcl resumes {FORMAT}"
        raise UserError(f"{told}; resume it with the version that `run.json` names")
    return state


def _verify(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != path.stem.rpartition("-")[2]:
        raise ValueError("its bytes are not those that were written: their SHA-256 is not that of its name")


def _load(path: Path, mapped: bool = False) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
