"""What is installed, for people: the tables behind ``avcl list`` and ``avcl show``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from avcl.registry import KINDS, Plugin, Registry
from avcl.settings import Component, Setting, describe, fields, plain


class Entry(NamedTuple):
    """One line of the list: a component class, or the metrics or loggers of a plugin."""

    kind: str
    name: str
    plugin: Plugin
    component: type[Component] | None = None

    @property
    def home(self) -> str:
        """The module that it is written in."""
        return self.component.__module__ if self.component else self.plugin.module


def entries(registry: Registry) -> Iterator[Entry]:
    """Everything that can be used, kind by kind."""
    for kind, base in KINDS.items():
        for plugin, component in sorted(registry.offers(kind), key=lambda offer: offer[1].name):
            yield Entry(base.lower(), component.name, plugin, component)
    for hook in ("metrics", "loggers"):
        yield from (Entry(hook, plugin.name, plugin) for plugin in registry.plugins if hook in plugin.hooks)


def show_all(registry: Registry) -> None:
    """Print what is installed, then what contradicts itself or is broken."""
    found = list(entries(registry))
    table = _table("kind", "name", "what it is", "plugin", "distribution")
    for entry in found:
        plugin = entry.plugin
        table.add_row(entry.kind, entry.name, _first_line(entry), plugin.module, plugin.distribution)
    write(table)
    clashes = {registry.conflict(kind, entry.name) for kind in KINDS for entry in found}
    for clash in sorted(filter(None, clashes)):
        write("", clash)
    if registry.broken:
        table = _table("broken plugin", "distribution", "error")
        for plugin in registry.broken:
            table.add_row(plugin.module, plugin.distribution, plugin.error)
        write("", table)


def show_one(registry: Registry, name: str) -> None:
    """Print all that is known about a name, in whatever kinds it occurs; UserError when it is in none."""
    found = [entry for entry in entries(registry) if entry.name == name]
    if not found:
        raise registry.unknown(name, *KINDS)
    for entry in found:
        where = f"{entry.home}.{entry.component.__qualname__}" if entry.component else entry.home
        write(f"{entry.kind} {entry.name}: {where}, from {entry.plugin}", *_documents(entry), "")
        if entry.component:
            table = _table("setting", "type", "default")
            for row in _settings(entry.component):
                table.add_row(*row)
            write(table if table.row_count else "It has no settings.", "")


def _settings(component: type[Component], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for key, setting in fields(component).items():
        if setting.component and not setting.optional:
            yield from _settings(setting.component, f"{prefix}{key}.")
        else:
            yield prefix + key, describe(setting.annotation), _default(setting)


def _default(setting: Setting) -> str:
    if setting.default is dataclasses.MISSING:
        return "required"
    if setting.default is None and not setting.optional:
        return "from other settings"
    return setting.default if isinstance(setting.default, str) else json.dumps(plain(setting.default), default=str)


def _documents(entry: Entry) -> Iterator[str]:
    """The docstrings of the module, where a paper is named, and of the class."""
    for text in (sys.modules[entry.home].__doc__, _own_doc(entry.component)):
        if text:
            yield ""
            yield inspect.cleandoc(text)


def _first_line(entry: Entry) -> str:
    """Of the class, else of its module."""
    text = _own_doc(entry.component) or sys.modules[entry.home].__doc__ or ""
    return inspect.cleandoc(text).partition("\n")[0]


def _own_doc(component: Any) -> str | None:
    """A class's docstring, unless ``dataclass`` made it up from the signature."""
    text = vars(component).get("__doc__") if component else None
    return None if text and text.startswith(f"{component.__name__}(") else text


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head not in ("what it is", "error", "type"))
    return table


def write(*parts: str | Table) -> None:
    """Print to standard output: on a terminal as wide as it is, elsewhere one line for each row."""
    console = Console(markup=False, highlight=False, emoji=False)
    for part in parts:
        if not console.is_terminal:
            console.width = max(80, Measurement.get(console, console.options.update(max_width=10_000), part).maximum)
        console.print(part, soft_wrap=isinstance(part, str))
