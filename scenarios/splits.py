"""Which classes of a dataset make which task: a YAML file, for a new dataset as for the paper's."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avcl.config.files import read_config
from avcl.errors import UserError, nearest

KEYS = ("dataset", "complete", "orders", "tasks")
CLASS_KEYS = ("name", "mid", "index", "clips")
BUNDLED = Path(__file__).parent


@dataclass(frozen=True)
class Class:
    """A class by its name, and by the mid that some lists use instead."""

    name: str
    mid: str | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What it may be called in a list."""
        return tuple(dict.fromkeys(key(text) for text in (self.name, self.mid) if text))


@dataclass(frozen=True)
class Categories:
    """The tasks of a file: their classes, and the classes that only the gallery of all has beside them.

    ``complete``: whether these are all classes of the dataset, so that any other is a mistake.
    """

    tasks: Mapping[str, tuple[Class, ...]]
    others: Mapping[str, tuple[Class, ...]]
    orders: Mapping[str, tuple[str, ...]]
    complete: bool


def key(label: str) -> str:
    """By what a label is looked up: CAV-MAE's label files write commas in names as ``_``."""
    return label.replace("_", ",").casefold()


def bundled() -> list[str]:
    """The files that come with avcl, without their ending."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


@functools.cache
def read_categories(path: str) -> Categories:
    """A file of the form ``tasks: {<task>: [<class>, ...]}``, or the name of a bundled one.

    A class is a name, or a mapping of ``name`` and ``mid``; a task may also be a mapping of ``classes`` and
    ``gallery_classes``; ``orders`` names sequences of tasks. UserError has a line for every mistake.
    """
    file = BUNDLED / f"{path}.yaml" if path in bundled() else Path(path).expanduser()
    tree = read_config(file)
    wrong = list(_mistakes(tree))
    if wrong:
        raise UserError("\n".join(f"{file}: {line}" for line in wrong))
    tasks = {name: _part(task, "classes") for name, task in tree["tasks"].items()}
    others = {name: _part(task, "gallery_classes") for name, task in tree["tasks"].items()}
    orders = {"main": tuple(tasks), **{name: tuple(order) for name, order in tree.get("orders", {}).items()}}
    return Categories(tasks, others, orders, tree.get("complete", False))


def wrong_order(where: str, order: Iterable[str], tasks: Iterable[str], what: str) -> Iterator[str]:
    """A line for each name in an order that is none of the ``tasks``, or is there twice."""
    for name, times in Counter(order).items():
        if name not in tasks:
            yield f"{where}: {name!r} is no {what}{nearest(name, map(str, tasks))}"
        elif times > 1:
            yield f"{where}: {name!r} is given {times} times"


def _part(task: Any, part: str) -> tuple[Class, ...]:
    listed = task.get(part) or [] if isinstance(task, dict) else task if part == "classes" else []
    return tuple(Class(entry) if isinstance(entry, str) else Class(entry["name"], entry.get("mid")) for entry in listed)


def _mistakes(tree: dict[str, Any]) -> Iterator[str]:
    yield from (f"{name}: unknown key{nearest(str(name), KEYS)}" for name in tree if name not in KEYS)
    if not isinstance(tree.get("complete", False), bool):
        yield f"complete: invalid value {tree['complete']!r}: must be true or false"
    tasks = tree.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        yield "tasks: must be a mapping of task names to lists of classes"
        return
    wrong = list(_no_names("tasks", tasks))
    wrong += [line for name, task in tasks.items() for line in _mistakes_of(f"tasks.{name}", task)]
    yield from wrong
    orders = tree.get("orders", {})
    if not isinstance(orders, dict) or not all(isinstance(order, list) and order for order in orders.values()):
        yield "orders: must be a mapping of names to lists of tasks"
        return
    yield from _no_names("orders", orders)
    for name, order in orders.items():
        yield from _no_names(f"orders.{name}", order)
        yield from wrong_order(f"orders.{name}", [task for task in order if isinstance(task, str)], tasks, "task")
    if wrong:
        return
    homes: dict[str, str] = {}
    for name, task in tasks.items():
        for entry in (*_part(task, "classes"), *_part(task, "gallery_classes")):
            for text in entry.keys:
                if text in homes:
                    yield f"tasks.{name}: class {entry.name!r} is already in {homes[text]}"
                homes[text] = f"tasks.{name}"


def _no_names(where: str, given: Iterable[Any]) -> Iterator[str]:
    """A line for everything that YAML reads as something else than text."""
    yield from (
        f"{where}: invalid value {name!r}: must be a name, in quotes" for name in given if type(name) is not str
    )


def _mistakes_of(where: str, task: Any) -> Iterator[str]:
    """What is wrong with one task."""
    parts = task if isinstance(task, dict) else {"classes": task}
    for part, entries in parts.items():
        if part not in ("classes", "gallery_classes"):
            yield f"{where}.{part}: unknown key{nearest(str(part), ('classes', 'gallery_classes'))}"
        elif not isinstance(entries, list):
            yield f"{where}: invalid value {entries!r}: must be a list of classes"
        else:
            for place, entry in enumerate(entries):
                named = entry if isinstance(entry, dict) else {"name": entry}
                if not isinstance(named.get("name"), str) or not set(named) <= set(CLASS_KEYS):
                    yield f"{where}: class {place}: invalid value {entry!r}: must be a name, or {{name, mid}}"
                elif not isinstance(named.get("mid"), str | None):
                    yield f"{where}: class {place}, mid: invalid value {named['mid']!r}: must be text, in quotes"
    if not parts.get("classes"):
        yield f"{where}: has no classes"
