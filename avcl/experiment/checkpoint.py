"""A run's checkpoint on disk: all that training depends on, as tensors, numbers and containers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from avcl.errors import UserError
from avcl.utils.atomic import replacing


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state``, a learner's and more; a reader never sees half of it."""
    with replacing(path) as file:
        torch.save(dict(state), file)


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote; tensors, numbers and containers only, nothing is executed. UserError if it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError) as error:
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(f"{path}: damaged ({type(error).__name__}: {why}); start again with another --out") from None
