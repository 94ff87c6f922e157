"""Which classes of a dataset make which task: a YAML file, for a new dataset as for the paper's."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, StrictBool, ValidationError

from avcl.config.files import read_config
from avcl.errors import UserError, nearest

BUNDLED = Path(__file__).parent


class Class(BaseModel, frozen=True, extra="forbid"):
    """A class by its name, and by the mid that some lists use instead; what else a file says is for people."""

    name: str
    mid: str | None = None
    index: int | None = None
    clips: int | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """What it may be called in a list."""
        return tuple(dict.fromkeys(key(text) for text in (self.name, self.mid) if text))


Classes = list[Annotated[Class, BeforeValidator(lambda given: {"name": given} if isinstance(given, str) else given)]]


class Task(BaseModel, extra="forbid"):
    """The classes of a task, and those that only the gallery of all has beside them."""

    classes: Annotated[Classes, Field(min_length=1)]
    gallery_classes: Classes = []


class Categories(BaseModel, extra="forbid"):
    """The tasks of a file, and orders of them; ``complete``: any class that it does not name is a mistake."""

    dataset: str = ""
    complete: StrictBool = False
    tasks: Annotated[
        dict[str, Annotated[Task, BeforeValidator(lambda given: {"classes": given} if type(given) is list else given)]],
        Field(min_length=1),
    ]
    orders: dict[str, Annotated[list[str], Field(min_length=1)]] = {}

    def classes(self, gallery: bool = True) -> Iterator[tuple[str, Class]]:
        """(task, class) of all classes to train on; then, with ``gallery``, those that only the gallery of all has."""
        for part in ("classes", "gallery_classes") if gallery else ("classes",):
            yield from ((name, entry) for name, task in self.tasks.items() for entry in getattr(task, part))


KEYS = [key for part in (Categories, Task, Class) for key in part.model_fields]
MUST = {
    "Class": "must be a name, or {name, mid}",
    "Task": "must be a list of classes",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
    "string_type": "must be text, in quotes",
    "too_short": "must not be empty",
}


def key(label: str) -> str:
    """By what a label is looked up: CAV-MAE's label files write commas in names as ``_``."""
    return label.replace("_", ",").casefold()


def bundled(ending: str) -> dict[str, Path]:
    """The files of an ending that come with avcl, by their names without it: ``.yaml`` splits, ``.csv`` galleries."""
    return {path.stem: path for path in sorted(BUNDLED.glob(f"*{ending}"))}


@functools.cache
def read_categories(path: str) -> Categories:
    """A file of the form ``tasks: {<task>: [<class>, ...]}``, or the name of a bundled one.

    A class is a name, or a mapping of ``name`` and ``mid``; a task may also be a mapping of ``classes`` and
    ``gallery_classes``; ``orders`` names sequences of tasks. UserError has a line for every mistake.
    """
    file = bundled(".yaml").get(path) or Path(path).expanduser()
    try:
        found = Categories.model_validate(read_config(file))
        wrong = list(_contradictions(found))
    except ValidationError as error:
        wrong = list(_lines(error))
    if wrong:
        raise UserError("\n".join(f"{file}: {line}" for line in wrong))
    found.orders = {"main": list(found.tasks), **found.orders}
    return found


def wrong_order(where: str, order: Iterable[str], tasks: Iterable[str], what: str) -> Iterator[str]:
    """A line for each name in an order that is none of the ``tasks``, or is there twice."""
    for name, times in Counter(order).items():
        if name not in tasks:
            yield f"{where}: {name!r} is no {what}{nearest(name, tasks)}"
        elif times > 1:
            yield f"{where}: {name!r} is given {times} times"


def _contradictions(found: Categories) -> Iterator[str]:
    """A line for each task that an order misspells, and for each class of two tasks."""
    for name, order in found.orders.items():
        yield from wrong_order(f"orders.{name}", order, found.tasks, "task")
    homes: dict[str, str] = {}
    for task, entry in found.classes():
        for text in entry.keys:
            if text in homes:
                yield f"tasks.{task}: class {entry.name!r} is already in tasks.{homes[text]}"
            homes[text] = task


def _lines(error: ValidationError) -> Iterator[str]:
    """A line for each value that is none, with its place."""
    for part in error.errors():
        steps: list[Any] = [step for step in part["loc"] if step != "[key]"]
        where, kind = ".".join(map(str, steps)), part["type"]
        if kind == "missing":
            yield f"{where}: required, but not given"
        elif kind == "extra_forbidden":
            yield f"{where}: unknown key{nearest(str(steps[-1]), KEYS)}"
        else:
            must = MUST.get(part.get("ctx", {}).get("class_name", kind)) or part["msg"].replace("Input should", "must")
            yield f"{where}: invalid value {part['input']!r}: {must}"
