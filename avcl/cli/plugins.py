"""What is installed, for people: the tables behind ``avcl list`` and ``avcl show``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.table import Table

import avcl
from avcl.compat import BaseLogger, PluginMetric
from avcl.config.build import Sections
from avcl.memory import Memory
from avcl.registry import KINDS, Plugin, Registry
from avcl.settings import Component, Setting, describe, descriptions, fields, plain
from avcl.training.callbacks import CALLBACKS
from avcl.training.learner import Learner, settings_of_learner
from avcl.training.saving import Saving
from avcl.utils.console import write

SECTIONS: dict[str, type] = {"learner": Learner, "memory": Memory, "run": Sections, "checkpoint": Saving, **CALLBACKS}
"""What has settings without being a plugin's: sections of a run file, its top, and callbacks."""

NARROW = {"type": 16, "default": 10}
"""Columns that leave a terminal's width to the help."""


class Entry(NamedTuple):
    """One line of the list: a class with settings, or the metrics or loggers of a plugin."""

    kind: str
    name: str
    plugin: Plugin
    maker: type | None = None

    @property
    def home(self) -> str:
        """The module that it is written in."""
        return self.maker.__module__ if self.maker else self.plugin.module


def entries(registry: Registry) -> Iterator[Entry]:
    """Everything that can be used, kind by kind."""
    for kind, base in KINDS.items():
        for plugin, component in sorted(registry.offers(kind), key=lambda offer: offer[1].name):
            yield Entry(base.lower(), component.name, plugin, component)
    for hook in ("metrics", "loggers"):
        for plugin in (plugin for plugin in registry.plugins if hook in plugin.hooks):
            yield Entry(hook, plugin.name, plugin)
            yield from (Entry(hook, maker.name, plugin, maker) for maker in _with_settings(plugin, hook))
    for name, maker in SECTIONS.items():
        yield Entry("section", name, Plugin(name, maker.__module__, f"avcl {avcl.__version__}"), maker)


def _with_settings(plugin: Plugin, hook: str) -> Iterator[type[Component]]:
    """The classes of metrics or loggers in a plugin's module that are components, by which a run file picks them."""
    base = {"metrics": PluginMetric, "loggers": BaseLogger}[hook]
    for maker in vars(sys.modules[plugin.module]).values():
        if inspect.isclass(maker) and issubclass(maker, base) and issubclass(maker, Component):
            yield maker


def show_all(registry: Registry) -> None:
    """Print what is installed, then what contradicts itself or is broken."""
    found = list(entries(registry))
    table = table_of("kind", "name", "what it is", "plugin", "distribution")
    for entry in found:
        plugin = entry.plugin
        table.add_row(entry.kind, entry.name, _first_line(entry), plugin.module, plugin.distribution)
    write(table)
    clashes = {registry.conflict(kind, entry.name) for kind in KINDS for entry in found}
    for clash in sorted(filter(None, clashes)):
        write("", clash)
    if registry.broken:
        table = table_of("broken plugin", "distribution", "error")
        for plugin in registry.broken:
            table.add_row(plugin.module, plugin.distribution, plugin.error)
        write("", table)


def show_one(registry: Registry, name: str) -> None:
    """Print all that is known about a name, in whatever kinds it occurs; UserError when it is in none."""
    found = [entry for entry in entries(registry) if entry.name == name]
    if not found:
        raise registry.unknown(name, *KINDS, also=SECTIONS)
    for entry in found:
        where = f"{entry.home}.{entry.maker.__qualname__}" if entry.maker else entry.home
        write(f"{entry.kind} {entry.name}: {where}, from {entry.plugin}", *_documents(entry), "")
        if entry.maker:
            table = table_of("setting", "type", "default", "help")
            for row in settings_of(entry.maker):
                table.add_row(*row)
            write(table if table.row_count else "It has no settings.", "")


def settings_of(maker: Callable[..., Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and help of every setting, those of nested components too; "-" for what is not described."""
    told = descriptions(maker)
    for key, setting in (settings_of_learner() if maker is Learner else fields(maker)).items():
        if setting.component and not setting.optional:
            yield from settings_of(setting.component, f"{prefix}{key}.")
        else:
            yield prefix + key, describe(setting.annotation), _default(setting), told.get(key, "-")


def _default(setting: Setting) -> str:
    if setting.default is dataclasses.MISSING:
        return "required"
    if setting.default is None and not setting.optional:
        return "from other settings"
    return setting.default if isinstance(setting.default, str) else json.dumps(plain(setting.default), default=str)


def _documents(entry: Entry) -> Iterator[str]:
    """The docstrings of the module, where a paper is named, and of the class."""
    for text in (sys.modules[entry.home].__doc__, _own_doc(entry.maker)):
        if text:
            yield ""
            yield inspect.cleandoc(text).partition("\nArgs:\n")[0].rstrip()  # the table tells them


def _first_line(entry: Entry) -> str:
    """Of the class, else of its module."""
    text = _own_doc(entry.maker) or sys.modules[entry.home].__doc__ or ""
    return inspect.cleandoc(text).partition("\n")[0]


def _own_doc(maker: type | None) -> str | None:
    """A class's docstring, unless ``dataclass`` made it up from the signature."""
    text = vars(maker).get("__doc__") if maker else None
    return None if maker and text and text.startswith(f"{maker.__name__}(") else text


def table_of(*heads: str) -> Table:
    """An empty table; on a narrow terminal its prose is folded, never its names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        wraps = head in ("what it is", "error", "type", "default", "help", "state")
        table.add_column(head, overflow="fold", no_wrap=not wraps, max_width=NARROW.get(head))
    return table
