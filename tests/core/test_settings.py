"""Settings are checked by their annotations, and every mistake is one line that names its key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from avcl.errors import SettingsError
from avcl.settings import Component, Fraction, build, describe, descriptions, fields, plain, validate


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


@dataclass(kw_only=True, eq=False)
class Store(Component):
    name = "store"

    capacity: PositiveInt = 3
    kind: Literal["ring", "heap"] = "ring"


@dataclass(kw_only=True)
class Thing(Component):
    name = "thing"

    size: NonNegativeInt
    rate: PositiveFloat = 1.0
    loss: NonNegativeFloat = 0.0
    share: Fraction = 0.5
    mode: Literal["a", "b"] | float = "a"
    betas: tuple[float, float] = (0.9, 0.99)
    steps: tuple[PositiveInt, ...] = ()
    limit: PositiveInt | None = None
    place: Path | None = None
    flag: bool = False
    title: str = "x"
    pairs: Annotated[int, AfterValidator(_even)] = 2
    store: Store = field(default_factory=Store)
    spare: Store | None = None

    def mistakes(self):
        if self.limit is not None and self.limit < self.size:
            yield f"limit: {self.limit} is less than size = {self.size}"


def lines(**values: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        build(Thing, {"size": 1, **values}, "part.0")
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"size": -1}, "size: invalid value -1: must be greater than or equal to 0"),
        ({"size": True}, "size: invalid value True: must be a number, not true or false"),
        ({"size": 1.5}, "size: invalid value 1.5: must be a valid integer"),
        ({"size": "many"}, "size: invalid value 'many': must be a valid integer"),
        ({"size": None}, "size: invalid value None: must be a valid integer"),
        ({"rate": 0}, "rate: invalid value 0: must be greater than 0"),
        ({"rate": float("nan")}, "rate: invalid value nan: must be a finite number"),
        ({"loss": float("inf")}, "loss: invalid value inf: must be a finite number"),
        ({"share": 1.01}, "share: invalid value 1.01: must be less than or equal to 1"),
        ({"mode": "c"}, "mode: invalid value 'c': must be 'a' or 'b' or a valid number"),
        ({"mode": True}, "mode: invalid value True: must be a number, not true or false"),
        ({"betas": [0.9]}, "betas.1: required, but not given"),
        ({"betas": [1, 2, 3]}, "betas: invalid value [1, 2, 3]: must have at most 2 items"),
        ({"betas": [0.9, "x"]}, "betas.1: invalid value 'x': must be a valid number"),
        ({"betas": [0.9, True]}, "betas: invalid value [0.9, True]: must be a number, not true or false"),
        ({"betas": 0.9}, "betas: invalid value 0.9: must be a valid tuple"),
        ({"steps": [1, 0]}, "steps.1: invalid value 0: must be greater than 0"),
        ({"place": 3}, "place: invalid value 3: must be a path"),
        ({"flag": "maybe"}, "flag: invalid value 'maybe': must be a valid boolean"),
        ({"title": [1] * 40}, f"title: invalid value {str([1] * 40)[:77]}...: must be a valid string"),
        ({"pairs": 3}, "pairs: invalid value 3: must be even"),
        ({"store": 3}, "store: invalid value 3: must be a mapping of settings"),
        ({"store": None}, "store: invalid value None: must be a mapping of settings"),
        ({"store": {"capacity": 0}}, "store.capacity: invalid value 0: must be greater than 0"),
        ({"store": {"kind": "bag"}}, "store.kind: invalid value 'bag': must be 'ring' or 'heap'"),
        ({"store": {"capcity": 3}}, "store.capcity: unknown setting; did you mean 'capacity'?"),
        ({"spare": {"capacity": "x"}}, "spare.capacity: invalid value 'x': must be a valid integer"),
        ({"spare": "x"}, "spare: invalid value 'x': must be a mapping of settings"),
        ({"shaer": 0.5}, "shaer: unknown setting; did you mean 'share'?"),
        ({"limit": 3, "size": 4}, "limit: 3 is less than size = 4"),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, Any], line: str) -> None:
    assert lines(**given) == [f"part.0.{line}"]


def test_all_mistakes_are_told_at_once_in_python_too() -> None:
    given = {"rate": -1, "betas": ["x", "y"], "store": {"capacity": 0, "kind": 1}}
    with pytest.raises(SettingsError) as yaml:
        build(Thing, {**given, "colour": 3}, "thing")
    assert str(yaml.value).splitlines() == [
        "thing.size: required, but not given",
        "thing.rate: invalid value -1: must be greater than 0",
        "thing.betas.0: invalid value 'x': must be a valid number",
        "thing.betas.1: invalid value 'y': must be a valid number",
        "thing.store.capacity: invalid value 0: must be greater than 0",
        "thing.store.kind: invalid value 1: must be 'ring' or 'heap'",
        "thing.colour: unknown setting; allowed: betas, flag, limit, loss, mode, pairs, place, rate, share, size, "
        "spare, steps, store, title",
    ]
    with pytest.raises(SettingsError) as python:
        Thing(size=1, **given)
    assert [f"thing.{line}" for line in python.value.mistakes] == yaml.value.mistakes[1:-1]


def test_values_become_what_the_annotation_says() -> None:
    given = {"size": 2.0, "rate": "1e-4", "loss": 3, "mode": "0.5", "betas": [0, "0.5"], "steps": [1, 2], "limit": 5}
    thing = build(Thing, given | {"place": "a/b", "flag": "yes", "store": {"capacity": "7"}, "spare": {}})
    assert (thing.size, type(thing.size)) == (2, int)
    assert (thing.rate, thing.mode) == (1e-4, 0.5)
    assert (thing.loss, type(thing.loss)) == (3.0, float)
    assert (thing.betas, thing.steps, thing.limit, thing.flag) == ((0.0, 0.5), (1, 2), 5, True)
    assert thing.place == Path("a/b")
    assert thing.store.capacity == 7
    assert thing.spare.capacity == 3
    assert Thing(size=1, limit=None, spare=None).spare is None


def test_defaults_stay_and_are_not_shared() -> None:
    one, two = Thing(size=1), build(Thing, {"size": 1})
    assert one.settings() == two.settings()
    assert (one.betas, one.mode, one.place) == ((0.9, 0.99), "a", None)
    assert len({id(store) for store in (one.store, two.store, fields(Thing)["store"].default)}) == 3


def test_settings_are_plain_and_build_an_equal_object() -> None:
    store = Store(capacity=2)
    thing = Thing(size=1, place=Path("a"), spare=store)
    assert thing.spare is build(Thing, {"size": 1, "spare": store}).spare is store  # what is built already is kept
    settings = thing.settings()
    assert (settings["betas"], settings["place"]) == ([0.9, 0.99], "a")
    assert settings["spare"] == {"capacity": 2, "kind": "ring"}
    assert build(Thing, settings).settings() == settings
    assert plain({"a": (Path("x"), Store())}) == {"a": ["x", {"capacity": 3, "kind": "ring"}]}


@dataclass(kw_only=True, eq=False)
class Net(nn.Module, Component):
    width: PositiveInt = 2
    copy: bool = True
    heads: PositiveInt = 1
    json: int | None = None

    def __post_init__(self) -> None:
        nn.Module.__init__(self)
        Component.__post_init__(self)
        self.layer = nn.Linear(self.width, self.width)

    def mistakes(self):
        if self.width % self.heads:
            yield f"heads: {self.heads} does not divide width = {self.width}"


def test_a_module_is_a_component() -> None:
    net = build(Net, {"width": "4", "json": 3})
    assert net.layer.weight.shape == (4, 4)
    assert net.settings() == {"width": 4, "copy": True, "heads": 1, "json": 3}
    assert {name for name, _ in net.named_parameters()} == {"layer.weight", "layer.bias"}
    with pytest.raises(SettingsError, match=r"^backbone\.heads: 3 does not divide width = 4$"):
        build(Net, {"width": 4, "heads": 3}, "backbone")


class Loop:
    def __init__(self, *, net: Net, rate: PositiveFloat = 1e-4, betas: tuple[float, float] = (0, 1), seed: int = 0):
        self.rate = rate


def test_a_callable_has_settings_too() -> None:
    assert list(fields(Loop)) == ["net", "rate", "betas", "seed"]
    assert list(fields(Loop, without=("net", "seed"))) == ["rate", "betas"]
    assert validate(Loop, {"rate": "0.5"}, without=("net", "seed")) == {"rate": 0.5}
    with pytest.raises(SettingsError) as caught:
        validate(Loop, {"net": 3, "rate": -1}, "learner", without=("net",))
    assert caught.value.mistakes == [
        "learner.rate: invalid value -1: must be greater than 0",
        "learner.net: unknown setting; allowed: betas, rate, seed",
    ]


def test_annotations_read_well() -> None:
    assert {key: describe(setting.annotation) for key, setting in fields(Thing).items()} == {
        "size": "int >= 0",
        "rate": "float > 0",
        "loss": "float >= 0",
        "share": "float >= 0, <= 1",
        "mode": "a | b | float",
        "betas": "[float, float]",
        "steps": "[int > 0, ...]",
        "limit": "int > 0 | null",
        "place": "path | null",
        "flag": "bool",
        "title": "str",
        "pairs": "int",
        "store": "store",
        "spare": "store | null",
    }
    assert describe(Annotated[str, Field(min_length=2)]) == "str length >= 2"
    assert describe(Annotated[Any, "name | mapping"]) == "name | mapping"
    assert describe(Any) == "any"


class Base:
    """Nothing.

    Args:
        size: Size of the thing: in
            whole numbers.
        rate: Of the base.
    """


class Derived(Base):
    """Less.

    Args:
        rate: Learning rate.

    Not an entry:
        share: No help.
    """


def test_help_is_read_from_docstrings_and_inherited() -> None:
    assert descriptions(Derived) == {"size": "Size of the thing: in whole numbers.", "rate": "Learning rate."}
    assert descriptions(Thing) == {}
