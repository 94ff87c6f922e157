"""Registers the ops of the namespace ``avcl``: native where a library is there, else in PyTorch, under one name.

``AVCL_OPS=native`` makes a missing library an error, ``AVCL_OPS=reference`` ignores them; the default is ``auto``.
Callers, torch.compile and third parties use ``torch.ops.avcl`` and never have to know which one runs.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from avcl.plugins.stella.ops.reference import KERNELS, wide

SCHEMAS = (
    "importance(Tensor query, Tensor key, float scale, float temperature) -> Tensor",
    "correlation(Tensor key, Tensor past, Tensor now, Tensor top, float scale, float temperature) -> Tensor",
    "prune(Tensor correlation, SymInt seed, int use, Tensor index) -> Tensor",
    "sample(Tensor importance, Tensor pruned, SymInt keep, SymInt seed, int use, Tensor index) -> Tensor",
    "select_chunks(Tensor importance, Tensor pruned, SymInt keep, SymInt chunk, str cut, SymInt seed, Tensor index)"
    " -> Tensor",
)
"""The same as in ``csrc/schemas.h``. Seeds are symbolic: torch.compile must not compile anew for each of them."""

FOLDER = Path(__file__).parent
LIBRARIES = {"CPU": "_C", "CUDA": "_C_cuda"}
MODES = ("auto", "native", "reference")
INSTRUCTIONS = ("generic", "avx2", "avx512", "amx")
"""What the kernels of the CPU exist for; the last that the processor has is used."""


class Backend(NamedTuple):
    """What runs an op on a device, and why it is not native where it is not."""

    op: str
    device: str
    native: bool
    reason: str


def backends() -> Iterator[Backend]:
    """What runs, for every device and op, as the dispatcher has it."""
    for device, reason in _REASONS.items():
        for op in KERNELS:
            native = torch._C._dispatch_has_kernel_for_dispatch_key(f"avcl::{op}", device)
            yield Backend(op, device, native, reason)


def lines() -> Iterator[tuple[str, str]]:
    """What runs, for people."""
    for op, device, native, reason in backends():
        vectors = device == "CPU" and op in ("importance", "correlation")
        how = f"native, {instructions()} kernels" if native and vectors else "native"
        if device == "CUDA" and not torch.cuda.is_available():
            how += ", but there is no device"
        yield f"{op} on {device}", how if native else f"PyTorch: {reason}"


def instructions(wanted: str | None = None) -> str | None:
    """The instruction set that the native ops of the CPU use; only for a library that is loaded.

    With ``wanted`` that one from now on, the best with ``""``; None, and no change, where this processor lacks it.
    """
    library = ctypes.CDLL(str(find("_C")))
    library.avcl_kernels.restype = ctypes.c_char_p
    found = library.avcl_kernels(None if wanted is None else wanted.encode())
    return found.decode() if found else None


def find(name: str, folder: Path = FOLDER) -> Path | None:
    """The library of that name, if it was built."""
    return next((path for suffix in EXTENSION_SUFFIXES if (path := folder / f"{name}{suffix}").exists()), None)


def obstacle(device: str, mode: str, folder: Path = FOLDER) -> str:
    """Why the device's library cannot be loaded; empty where it can."""
    name = LIBRARIES[device]
    if mode == "reference":
        return "AVCL_OPS=reference"
    if device == "CUDA" and torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    path = find(name, folder)
    if path is None:
        return f"{name} was not built; to see why: AVCL_BUILD_{'CUDA' if device == 'CUDA' else 'EXT'}=1 pip install -v"
    # A library cannot be unloaded, and one of another version would register kernels that do not fit.
    content = path.read_bytes()
    if not all(schema.encode() in content for schema in SCHEMAS):
        return f"{path.name} is of another version of avcl; reinstall avcl"
    return ""


def _load(mode: str) -> dict[str, str]:
    """Load what can be loaded; for each device why not, or the instructions that the kernels use."""
    if mode not in MODES:
        raise ValueError(f"AVCL_OPS: {mode!r} is not known; allowed: {', '.join(MODES)}")
    reasons = {}
    for device, name in LIBRARIES.items():
        reason = obstacle(device, mode)
        if not reason:
            try:
                torch.ops.load_library(find(name))
            except OSError as error:
                reason = f"{name} cannot be loaded: {error}"
        needed = device == "CPU" or torch.cuda.is_available()
        if reason and mode == "native" and needed:
            raise ImportError(f"AVCL_OPS=native, but {reason}")
        reasons[device] = reason
    return reasons


def _scores(query: Tensor, key: Tensor, *_: object) -> Tensor:
    return query.new_empty((key.shape[0], key.shape[2]), dtype=wide(query, key))


def _correlations(key: Tensor, past: Tensor, now: Tensor, *_: object) -> Tensor:
    return key.new_empty((key.shape[0], key.shape[2]), dtype=wide(key, past, now))


def _flags(correlation: Tensor, *_: object) -> Tensor:
    return torch.empty_like(correlation, dtype=torch.bool, memory_format=torch.contiguous_format)


def _indices(importance: Tensor, pruned: Tensor, keep: int, *_: object) -> Tensor:
    return importance.new_empty((importance.shape[0], keep), dtype=torch.int64)


_REASONS = _load(os.environ.get("AVCL_OPS") or "auto")
_SHAPES: tuple[Callable[..., Tensor], ...] = (_scores, _correlations, _flags, _indices, _indices)
_FAKES = dict(zip(KERNELS, _SHAPES, strict=True))
_LIBRARY = torch.library.Library("avcl", "FRAGMENT")
for _schema in SCHEMAS:
    _op = _schema.partition("(")[0]
    if _REASONS["CPU"]:
        _LIBRARY.define(_schema)
    # whatever has no kernel of its own takes this one; a kernel for the device goes first
    _LIBRARY.impl(_op, KERNELS[_op], "CompositeExplicitAutograd")
    # scores carry no gradient, and indices have none
    _LIBRARY.impl(_op, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"avcl::{_op}", _FAKES[_op], lib=_LIBRARY)
