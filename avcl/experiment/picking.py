"""Picks metrics and loggers by name among what plugins made for a run, and gives them their settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from avcl.errors import SettingsError, nearest
from avcl.settings import Component, validate

Picks = Sequence[Mapping[str, Any]] | None
"""Mappings with a ``name``, and settings beside it; None for all that are not ``optional``."""


def picked(made: Sequence[Any], picks: Picks, where: str) -> list[Any]:
    """Those of ``made`` that ``picks`` name, with the settings that it gives; the others are closed.

    A metric is called what its ``str()`` says, a logger by its ``name``, else by its class. Its settings are those
    of a component, or the keyword-only parameters of its class: attributes of the same names, of itself or of what
    it has as ``component``.
    """
    if picks is None:
        return [part for part in made if not getattr(part, "optional", False)]
    known = {called(part): part for part in made}
    chosen: list[Any] = []
    wrong: list[str] = []
    for place, section in enumerate(picks):
        name, key = section["name"], f"{where}.{place}"
        part = known.pop(name, None)
        if part is None:
            wrong.append(f"{key}.name: unknown {where.removesuffix('s')} {name!r}{nearest(name, known)}")
            continue
        chosen.append(part)
        try:
            values = {setting: value for setting, value in section.items() if setting != "name"}
            holder = getattr(part, "component", part)
            for setting, value in validate(type(holder), values, key).items():
                setattr(holder, setting, value)
            wrong += [f"{key}.{line}" for line in (holder.mistakes() if isinstance(holder, Component) else ())]
        except SettingsError as error:
            wrong += error.mistakes
    close(part for part in made if wrong or not any(part is one for one in chosen))
    if wrong:
        raise SettingsError(wrong)
    return chosen


def called(part: Any) -> str:
    """The name by which a metric or a logger is picked."""
    name = getattr(part, "name", None)
    if isinstance(name, str) and name:
        return name
    return type(part).__name__ if type(part).__str__ is object.__str__ else str(part)


@contextlib.contextmanager
def closing(parts: Any) -> Iterator[None]:
    """Close loggers behind this block; where it failed already, that error is the one to tell."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            close(parts)
        raise
    close(parts)


def close(parts: Any) -> None:
    """Close loggers, or the writers that they have: all of them, even if one cannot be."""
    with contextlib.ExitStack() as stack:
        for part in parts:
            found = getattr(part, "close", None) or getattr(getattr(part, "writer", None), "close", None)
            if found:
                stack.callback(found)
