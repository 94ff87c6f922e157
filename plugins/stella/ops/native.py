"""Registers the ops of the namespace ``avcl``: native where a library is there, else in PyTorch, under one name.

``AVCL_OPS=native`` makes a missing library an error, ``AVCL_OPS=reference`` ignores them; the default is ``auto``.
Callers, torch.compile and third parties use ``torch.ops.avcl`` and never have to know which one runs.
"""

import ctypes
import os
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import register_flop_formula

from avcl.plugins.stella.ops.reference import OPS

STATEMENT = "\n".join(["avcl ops:", *(op.schema for op in OPS.values() if op.native), ""])
"""What a library says of itself that has kernels for these ops, see ``csrc/ops.h``."""

FOLDER = Path(__file__).parent
LIBRARIES = {"CPU": "_C", "CUDA": "_C_cuda"}
MODES = ("auto", "native", "reference")
INSTRUCTIONS = ("generic", "avx2", "avx512")
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
        for name, op in OPS.items():
            native = torch._C._dispatch_has_kernel_for_dispatch_key(f"avcl::{name}", device)
            yield Backend(name, device, native, reason if op.native else "needs no native form")


def lines() -> Iterator[tuple[str, str]]:
    """What runs, for people."""
    for op, device, native, reason in backends():
        how = f"native, {instructions()} kernels" if (op, device) == ("importance", "CPU") and native else "native"
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
    if STATEMENT.encode() not in path.read_bytes():
        return f"{path.name} is of another version of avcl; reinstall avcl"
    return ""


def load_libraries(mode: str, folder: Path = FOLDER) -> dict[str, str]:
    """Load what can be loaded; for each device why not, or nothing.

    Raises:
        ImportError: ``mode`` is ``native`` and the library of a device that is there cannot be loaded.
    """
    if mode not in MODES:
        raise ValueError(f"AVCL_OPS: invalid value {mode!r}: must be one of {', '.join(MODES)}")
    reasons = {}
    for device, name in LIBRARIES.items():
        reason = obstacle(device, mode, folder)
        if not reason:
            try:
                torch.ops.load_library(find(name, folder))
            except OSError as error:
                reason = f"{name} cannot be loaded: {error}"
        needed = device == "CPU" or torch.cuda.is_available()
        if reason and mode == "native" and needed:
            raise ImportError(f"AVCL_OPS=native, but {reason}")
        reasons[device] = reason
    return reasons


_LIBRARY = torch.library.Library("avcl", "FRAGMENT")
for _name, _op in OPS.items():
    _LIBRARY.define(_op.schema)
    # whatever has no kernel of its own takes this one; a kernel for the device goes first
    _LIBRARY.impl(_name, _op.kernel, "CompositeExplicitAutograd")
    # scores carry no gradient, and indices have none
    _LIBRARY.impl(_name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"avcl::{_name}", _op.fake, lib=_LIBRARY)
    if _op.flops is not None:  # for torch.utils.flop_counter, and so for `avcl bench`
        register_flop_formula(getattr(torch.ops.avcl, _name))(_op.flops)
_REASONS = load_libraries(os.environ.get("AVCL_OPS") or "auto")
