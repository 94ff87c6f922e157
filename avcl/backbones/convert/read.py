"""Reads the tensors of third-party checkpoints; whatever code such a file names is never run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from avcl.backbones.weights import read_safetensors
from avcl.errors import UserError

WRAPPERS = ("model", "state_dict")
"""Under which of these a training's checkpoint has its model's state."""


class Checkpoint(NamedTuple):
    """The tensors of a model by name, and the names of what else is in its file: an optimizer's state, an epoch."""

    state: dict[str, Tensor]
    beside: tuple[str, ...] = ()


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a ``.safetensors`` file, or one of ``torch.save``: a state dict, bare or under one of ``WRAPPERS``."""
    if Path(path).suffix == ".safetensors":
        tensors, about = read_safetensors(path)
        if about.get("format") == "avcl":
            raise UserError(
                f"{path}: written by avcl: no conversion needed; a run starts from it with the setting weights"
            )
        return Checkpoint(tensors)
    try:
        content = _unpickle(Path(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: cannot be read without running code that it names; "
            "if you trust it, save its state dict alone: "
            "torch.save(torch.load(path, weights_only=False)['model'], 'model.pth')"
        ) from None
    except Exception as error:  # the reader fails in any way that the bytes of a damaged file suggest
        raise UserError(f"{path}: corrupt, or not a file of torch.save ({type(error).__name__})") from None
    wrapped = isinstance(content, dict) and [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    state = content[wrapped[0]] if wrapped else content
    if not isinstance(state, dict) or not state or not all(map(_named, state.items())):
        raise UserError(f"{path}: holds a {type(state).__name__}, not names and tensors of a model")
    return Checkpoint(dict(state), tuple(str(key) for key in content if key != wrapped[0]) if wrapped else ())


def _named(entry: tuple[Any, Any]) -> bool:
    """Whether this is a name and a tensor that has its numbers with it."""
    name, value = entry
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta
    return isinstance(name, str) and plain


class Inert:
    """Stands in for every class and function that is not torch's own: takes anything and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Without the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _unpickle(path: Path) -> Any:
    """What ``torch.save`` wrote, as far as it is tensors, numbers and containers.

    A memory of clips in the file is mapped, not read.
    """
    zipped = zipfile.is_zipfile(path)
    named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    with torch.serialization.safe_globals([(type("Inert", (Inert,), {}), name) for name in named]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
