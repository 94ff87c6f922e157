"""Finds what is installed, plugin by plugin; a broken one is reported and never in the way."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

import avcl
from avcl import faults, hookspecs, settings
from avcl.errors import BadClip, PluginError, StoppedError, UserError, nearest

if TYPE_CHECKING:
    from avalanche.evaluation import PluginMetric
    from avalanche.logging import BaseLogger

    from avcl.experiment.run import Run
    from avcl.settings import Component

log = logging.getLogger(__name__)

KINDS = {"strategies": "Strategy", "scenarios": "Scenario", "backbones": "Backbone", "evaluations": "Evaluation"}
"""The hooks that return component classes, and the class that each of them extends."""

OTHERS = {"PluginMetric": "metric", "BaseLogger": "logger", "Callback": "callback", "BasePlugin": "Avalanche plugin"}
ROLES = {*KINDS.values(), *OTHERS}
"""Base classes, avcl's and Avalanche's, of all whose methods are called by avcl."""

LASTING = ("results", "state_dict", "load_state_dict")
"""What a metric has that goes into ``results.json`` under its ``str()``, and that a resumed run goes on with."""


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
        self._hooks: dict[str, pluggy.PluginManager] = {}  # of each plugin that works, by its module
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

    def unknown(self, name: str, *kinds: str, also: Iterable[str] = ()) -> UserError:
        """The error for a name that no plugin offers: what is nearest, and what may have failed to offer it."""
        what = KINDS[kinds[0]].lower() if len(kinds) == 1 else "name"
        known = nearest(name, {*also, *(cls.name for kind in kinds for _, cls in self.offers(kind))})
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
        """The metrics of all plugins for this run; PluginError names a plugin whose hook fails."""
        from avcl import compat

        found = self._made("metrics", compat.PluginMetric, run=run)
        names = set()
        for metric in (metric for metric in found if hasattr(metric, "results")):
            missing = [key for key in LASTING if not hasattr(metric, key)]
            if missing:
                raise PluginError(f"{_named(metric)} has results but no {', '.join(missing)}; resuming needs them")
            if str(metric) in names:
                raise PluginError(f"{_named(metric)} has the name of another one: {str(metric)!r}; change its __str__")
            names.add(str(metric))
        return found

    def loggers(self, run: Run) -> list[BaseLogger]:
        """The loggers of all plugins for this run; PluginError names a plugin whose hook fails."""
        from avcl import compat

        return self._made("loggers", compat.BaseLogger, run=run)

    def doctor(self) -> list[tuple[str, str]]:
        """What plugins say about how they run on this machine; one whose hook fails is a line itself."""
        lines: list[tuple[str, str]] = []
        for plugin in self._that_implement("doctor"):
            try:
                lines += self._ask(plugin, "doctor")
            except PluginError as error:
                lines.append((f"plugin {plugin.name}", f"broken: {error}"))
        return lines

    def bench(self, name: str) -> Callable[[Sequence[str]], None]:
        """The bench of that name, a function of command-line arguments; UserError where no plugin brings one."""
        found = dict(pair for plugin in self._that_implement("benches") for pair in self._ask(plugin, "benches"))
        if name not in found:
            raise UserError(f"unknown bench {name!r}{nearest(name, ('training', 'data', *found))}")
        return found[name]

    def origin(self, component: Any) -> str:
        """``"calm 0.1, module calm"``: the distribution that brings an object's class, if one does, and its module."""
        cls = type(component)
        brings = [p for p in self.plugins if any(cls in classes for classes in p.offers.values())]
        brings += [p for p in self.plugins if f"{cls.__module__}.".startswith(f"{p.module}.")]
        own = f"avcl {avcl.__version__}" if _is_ours(component) else f"class {cls.__qualname__}"
        return f"{brings[0].distribution if brings else own}, module {cls.__module__}"

    def _made(self, hook: str, base: type[Any], **kwargs: Any) -> list[Any]:
        """What all plugins make, each of it a ``base``; in the order of pluggy, the last registered first."""
        found = []
        for plugin in self._that_implement(hook):
            made = self._ask(plugin, hook, **kwargs)
            for one in made:
                if not isinstance(one, base):
                    raise PluginError(f"plugin {plugin}: {hook}() returned {one!r}, which is no {base.__name__}")
            found += made
        return found

    def _that_implement(self, hook: str) -> list[Plugin]:
        return [plugin for plugin in reversed(self.plugins) if hook in plugin.hooks]

    def _ask(self, plugin: Plugin, hook: str, **kwargs: Any) -> list[Any]:
        """All that one plugin's hook returns, also where it is a generator."""
        with blamed(plugin, hook):
            return [part for made in getattr(self._hooks[plugin.module].hook, hook)(**kwargs) for part in made]

    def _load(self, point: EntryPoint) -> Plugin:
        """Import one plugin and ask what it offers; whatever it does wrong stays with it."""
        source = f"{point.dist.name} {point.dist.version}" if point.dist else "of no distribution"
        plugin = Plugin(point.name, point.value, source)
        try:
            module = point.load()
            if point.value in self._hooks:
                raise PluginError(f"{point.value} is an entry point twice")
            alone = _manager()
            alone.register(module)
            hooks = _implemented(alone, module)
            offers = {kind: _classes(alone, kind) for kind in KINDS}
        except (Exception, SystemExit) as error:
            log.debug("plugin %s is broken", plugin, exc_info=True)
            return dataclasses.replace(plugin, error=one_line(error))
        self._hooks[point.value] = alone
        return dataclasses.replace(plugin, hooks=hooks, offers=offers)


@functools.cache
def registry() -> Registry:
    """What is installed, found once."""
    return Registry()


@contextlib.contextmanager
def blamed(component: Any, verb: str) -> Iterator[None]:
    """Within this block ``component``, a plugin or an object of one, runs ``verb``: what it raises names both.

    Any exception becomes the cause of a PluginError, or of a UserError where the machine is at an end; except those
    that are meant for the user or for the loop: UserError, BadClip, StoppedError, and Ctrl-C.
    """
    try:
        yield
    except (UserError, BadClip, StoppedError):
        raise
    except (Exception, SystemExit) as error:
        if _is_ours(component) and (theirs := _raisers(error)[0]):
            component, verb = theirs
        log.debug("%s failed in %s", component, verb, exc_info=True)  # in a loader worker, nobody else can show it
        if told := faults.of_machine(error) or (faults.of_file(error) if _is_ours(component) else ""):
            raise UserError(told) from error
        raise PluginError(f"{_named(component)} failed in {verb}: {one_line(error)}") from error


def line_of(error: BaseException) -> str:
    """One line that tells a user of an exception; empty for a fault of avcl itself, which has to be looked into.

    Those of the machine and of files come with what to do about it, those of plugins with the plugin and its verb.
    """
    if isinstance(error, UserError | BadClip):
        return str(error)
    theirs, ours = _raisers(error)
    if told := faults.of_machine(error):
        unplaced = isinstance(error, OSError) and error.filename is None
        return f"{_named((theirs or ours)[0])}: {told}" if unplaced and (theirs or ours) else told
    file = "" if theirs else faults.of_file(error)
    if found := theirs or (() if file else ours):
        return f"{_named(found[0])} failed in {found[1]}: {one_line(error)}"
    return file


def _raisers(error: BaseException) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(object, verb) of the component or plugin that raised an error: the innermost of others', and that of avcl's."""
    verbs: dict[int, tuple[Any, str]] = {}
    theirs: tuple[Any, ...] = ()
    ours: tuple[Any, ...] = ()
    for frame, _ in traceback.walk_tb(error.__traceback__):
        me, module = frame.f_locals.get("self"), str(frame.f_globals.get("__name__"))
        if not ROLES & {base.__name__ for base in type(me).__mro__}:
            me = _module_of(module)
        if me is None or module.startswith(("torch.", "avalanche.")):
            continue
        found = verbs.setdefault(id(me), (me, frame.f_code.co_qualname.rpartition("<locals>.")[2].rpartition(".")[2]))
        if _is_ours(me):
            ours = found
        else:
            theirs = found
    return theirs, ours


def _is_ours(component: Any) -> bool:
    """Whether avcl itself brings it."""
    return f"{component.module if isinstance(component, Plugin) else type(component).__module__}.".startswith("avcl.")


def _module_of(module: str) -> Plugin | None:
    """The plugin, of another distribution than avcl's, that a module is of."""
    if module.startswith("avcl."):
        return None
    return next((plugin for plugin in registry().plugins if f"{module}.".startswith(f"{plugin.module}.")), None)


def one_line(error: BaseException) -> str:
    """``"ValueError: what it says"`` without line breaks; an error of ours has no name in front."""
    said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(said.split()).removesuffix(":")


def _named(component: Any) -> str:
    """What a component is, what it is called and where it comes from; only asked for when it failed."""
    if isinstance(component, Plugin):
        return f"plugin {component}"
    cls = type(component)
    bases = {base.__name__ for base in cls.__mro__}
    kind = next((base.lower() for base in KINDS.values() if base in bases), "")
    kind = kind or next((word for base, word in OTHERS.items() if base in bases), "object")
    try:
        origin = registry().origin(component)
    except PluginError:  # nothing can be found: then this error is not to hide the other one
        origin = f"class {cls.__qualname__}, module {cls.__module__}"
    return f"{kind} {getattr(component, 'name', '') or cls.__name__!r} ({origin})"


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
            raise PluginError(f"{kind}() returned {made!r}; must be a list of classes")
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
    known = settings.fields(cls)  # raises where an annotation means nothing
    bare = [key for key, setting in known.items() if setting.default is dataclasses.MISSING]
    if bare and kind == "evaluations":
        return f"whose setting {bare[0]!r} has no default; it is asked for by its name alone"
    return None
