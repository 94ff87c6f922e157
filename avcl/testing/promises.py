"""What the four checks share: a promise is a function whose docstring says it, and who breaks one is named."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avcl.errors import SettingsError
from avcl.registry import one_line
from avcl.settings import build, fields

Make = Callable[[], Any]
"""A component's class, or a function that makes a new one every time, with the settings to be checked."""

Promise = Callable[[Make], None]
"""Raises whatever it likes where what it is given a maker of does not keep it."""


class BrokenPromise(AssertionError):
    """A component breaks its contract; one line names the component, the promise and what was found."""


def require(holds: Any, found: str) -> None:
    """BrokenPromise with ``found`` unless ``holds``; ``python -O`` leaves it in place."""
    if not holds:
        raise BrokenPromise(found)


def keep(kind: type[Any], make: Make, promises: Sequence[Promise]) -> None:
    """BrokenPromise at the first of ``promises`` that what ``make`` makes, a ``kind``, breaks."""
    called, name = kind.__name__.removeprefix("Plugin").lower(), repr(getattr(make, "__qualname__", make))
    promise: Promise | None = None
    try:
        part = make()
        require(isinstance(part, kind), f"is a {type(part).__name__}, no {kind.__name__}")
        name = repr(getattr(part, "name", "") or str(part))
        for promise in promises:
            promise(make)
    except Exception as error:
        text = "can be made" if promise is None else " ".join((promise.__doc__ or promise.__name__).split())
        found = str(error) if isinstance(error, BrokenPromise) else one_line(error)
        raise BrokenPromise(f"{called} {name} breaks a promise ({text}): {found}") from error


def refuses_invalid_settings(make: Make) -> None:
    """refuses invalid settings, each by its key, and survives build(cls, settings())"""
    part = make()
    cls, values = type(part), part.settings()
    for key in (*fields(cls), "no_such_setting"):
        try:
            build(cls, {**values, key: object()})
        except SettingsError as error:
            require(any(line.startswith(key) for line in error.mistakes), f"{key} is refused without its key: {error}")
        else:
            raise BrokenPromise(f"{key} takes anything; annotate it with what it may be")
    require(build(cls, values).settings() == values, f"{values} build one with other settings")


@contextlib.contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Within this block the global generators of torch, NumPy and Python begin at ``seed``; nothing of it stays."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def global_state() -> list[Any]:
    """The state of the global generators of torch, NumPy and Python."""
    return [torch.get_rng_state(), np.random.get_state(), random.getstate()]


def same(one: Any, two: Any) -> bool:
    """Whether tensors, arrays, numbers and containers of them are equal; what is not a number equals itself."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and torch.allclose(one, two, 0, 0, equal_nan=True)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (one == two or one != one)


def finite(*tensors: Tensor) -> bool:
    """Whether every number is one."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
