"""Finds what is installed, plugin by plugin; a broken one is reported and never in the way."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

import avcl
from avcl import hookspecs, settings
from avcl.errors import PluginError, UserError, nearest

if TYPE_CHECKING:
    from avalanche.evaluation import PluginMetric
    from avalanche.logging import BaseLogger

    from avcl.experiment.run import Run
    from avcl.settings import Component

log = logging.getLogger(__name__)

KINDS = {"strategies": "Strategy", "scenarios": "Scenario", "backbones": "Backbone"}
"""The hooks that return component classes, and the class that each of them extends."""


@dataclass(frozen=True)
class Plugin:
    """What became of one entry point: what it ``offers`` by kind, or the one-line ``error`` that broke it."""

    name: str
    module: str
    distribution: str
    error: str | None = None
    hooks: tuple[str, ...] = ()
    offers: Mapping[str, tuple[type[Component], ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.module} ({self.distribution})"


class Registry:
    """Everything that the given entry points offer, in their order; those of the group ``avcl`` by default."""

    def __init__(self, points: Iterable[EntryPoint] | None = None):
        self._hooks = _manager()
        self.plugins = [self._load(point) for point in (_installed() if points is None else points)]

    @property
    def broken(self) -> list[Plugin]:
        """The plugins that could not be loaded."""
        return [plugin for plugin in self.plugins if plugin.error]

    def offers(self, kind: str) -> Iterator[tuple[Plugin, type[Component]]]:
        """All classes of a kind, with the plugin that brings each."""
        return ((plugin, cls) for plugin in self.plugins for cls in plugin.offers.get(kind, ()))

    def find(self, kind: str, name: str) -> type[Any]:
        """The class of that name; UserError when there is none, PluginError when there are two."""
        found = [(plugin, cls) for plugin, cls in self.offers(kind) if cls.name == name]
        if not found:
            raise self.unknown(name, kind)
        if conflict := self.conflict(kind, name):
            raise PluginError(conflict)
        return found[0][1]

    def unknown(self, name: str, *kinds: str) -> UserError:
        """The error for a name that no plugin offers: what is nearest, and what may have failed to offer it."""
        what = KINDS[kinds[0]].lower() if len(kinds) == 1 else "name"
        known = nearest(name, {cls.name for kind in kinds for _, cls in self.offers(kind)})
        broken = "; ".join(f"{plugin}: {plugin.error}" for plugin in self.broken)
        return UserError(f"unknown {what} {name!r}{known}" + (f"; broken plugins: {broken}" if broken else ""))

    def conflict(self, kind: str, name: str) -> str | None:
        """What to say about two classes of one name, or None where there is no conflict."""
        owners = {cls: plugin for plugin, cls in self.offers(kind) if cls.name == name}
        if len(owners) < 2:
            return None
        sides = " and by ".join(map(str, owners.values()))
        return f"{KINDS[kind].lower()} {name!r} is offered twice: by {sides}; uninstall one"

    def metrics(self, run: Run) -> list[PluginMetric]:
        """The metrics of all plugins for this run."""
        return [metric for made in self._hooks.hook.metrics(run=run) for metric in made]

    def loggers(self, run: Run) -> list[BaseLogger]:
        """The loggers of all plugins for this run."""
        return [logger for made in self._hooks.hook.loggers(run=run) for logger in made]

    def doctor(self) -> list[tuple[str, str]]:
        """What plugins say about how they run on this machine."""
        return [line for said in self._hooks.hook.doctor() for line in said]

    def _load(self, point: EntryPoint) -> Plugin:
        """Import one plugin and ask what it offers; whatever it does wrong stays with it."""
        source = f"{point.dist.name} {point.dist.version}" if point.dist else "of no distribution"
        plugin = Plugin(point.name, point.value, source)
        try:
            module = point.load()
            if self._hooks.is_registered(module):
                raise PluginError(f"{point.value} is an entry point twice")
            alone = _manager()
            alone.register(module)
            hooks = _implemented(alone, module)
            offers = {kind: _classes(alone, kind) for kind in KINDS}
        except (Exception, SystemExit) as error:
            log.debug("plugin %s is broken", plugin, exc_info=True)
            said = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
            return dataclasses.replace(plugin, error=" ".join(said.split()))
        self._hooks.register(module)
        return dataclasses.replace(plugin, hooks=hooks, offers=offers)


@functools.cache
def registry() -> Registry:
    """What is installed, found once."""
    return Registry()


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _installed() -> list[EntryPoint]:
    """The entry points of the group, by name; PluginError where avcl is not beside its own plugins."""
    here, bundled = Path(__file__).resolve().parent, importlib.util.find_spec("avcl.plugins")
    if bundled is None or Path(bundled.origin or "").resolve().parent.parent not in (here, here.parent):
        raise PluginError(
            f"avcl in {here} has no plugins: started here, this folder hides the installed avcl; "
            f"run `python -m pip install -e {here.parent}`, or start from another folder"
        )
    return sorted(entry_points(group=hookspecs.PROJECT), key=lambda point: (point.name, point.value))


def _implemented(manager: pluggy.PluginManager, module: Any) -> tuple[str, ...]:
    """The hooks that a plugin implements; PluginError for one that does not exist, or for none."""
    known = sorted(name for name, caller in vars(manager.hook).items() if caller.has_spec())
    found = tuple(caller.name for caller in manager.get_hookcallers(module) or ())
    for name in found:
        if name not in known:
            raise PluginError(f"no hook is called {name!r}{nearest(name, known)}")
    if not found:
        raise PluginError(f"implements no hook; decorate one of {', '.join(known)} with avcl.hookimpl")
    return found


def _classes(manager: pluggy.PluginManager, kind: str) -> tuple[type[Component], ...]:
    """The classes of a kind; PluginError for one that does not fit."""
    found: list[type[Component]] = []
    for made in getattr(manager.hook, kind)():
        if not isinstance(made, Iterable):
            raise PluginError(f"{kind}() returned {made!r}; a list of classes is needed")
        found += made
    for cls in found:
        if wrong := _misfit(cls, kind):
            raise PluginError(f"{kind}() returned {getattr(cls, '__qualname__', repr(cls))}, {wrong}")
    return tuple(found)


def _misfit(cls: Any, kind: str) -> str | None:
    """Why a class cannot be used as a component of this kind."""
    base: type[Component] = getattr(avcl, KINDS[kind])
    if not isinstance(cls, type) or not issubclass(cls, base):
        return f"which is not a subclass of avcl.{base.__name__}"
    if not isinstance(cls.name, str) or not cls.name:
        return 'which has no name; set name = "..."'
    own: Mapping[str, dataclasses.Field] | None = vars(cls).get("__dataclass_fields__")
    if own is None or any(f.init and not f.kw_only for f in own.values()):
        return "which is not decorated with @dataclass(kw_only=True)"
    if cls.__hash__ is None and kind == "backbones":
        return "a torch module that cannot be hashed; decorate it with @dataclass(kw_only=True, eq=False)"
    settings.fields(cls)  # raises where an annotation means nothing
    return None
