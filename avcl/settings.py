"""The signature is the schema: a component's fields are its settings, in Python, in YAML and in messages."""

import dataclasses
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Union

import pydantic
from pydantic import Field, WrapValidator
from pydantic_core import core_schema

from avcl.errors import SettingsError, nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Moment = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Component:
    """A keyword-only dataclass that avcl can build from YAML, show, and validate.

    ``name`` is how files and the command line call it. Every field is validated against its annotation when
    the object is made, whoever makes it; ``mistakes`` adds what one annotation cannot say.
    """

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Validate the fields; raises SettingsError with one line for each mistake."""
        for key, value in validate(type(self), {key: getattr(self, key) for key in fields(type(self))}).items():
            setattr(self, key, value)
        if wrong := list(self.mistakes()):
            raise SettingsError(wrong)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """As a setting of another one: a mapping of settings is built, an object has validated itself."""
        return core_schema.no_info_before_validator_function(
            lambda value: build(cls, value) if isinstance(value, Mapping) else value,
            core_schema.is_instance_schema(cls),
        )

    def mistakes(self) -> Iterator[str]:
        """Lines ``"key: what is wrong, what is allowed"`` about fields that do not fit together."""
        return iter(())

    def settings(self) -> dict[str, Any]:
        """The fields as plain values, ready for YAML; ``build`` makes an equal object of them."""
        return {key: plain(getattr(self, key)) for key in fields(type(self))}


def plain(value: Any) -> Any:
    """``value`` as YAML can say it: components as mappings, tuples as lists, paths as text."""
    if isinstance(value, Component):
        return value.settings()
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, PurePath) else value


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a component: its annotation and its default (``dataclasses.MISSING`` if required)."""

    annotation: Any
    default: Any

    @property
    def component(self) -> type[Component] | None:
        """The component class that this setting holds, alone or beside None."""
        bare = [part for part in _members(self.annotation) if part is not types.NoneType]
        alone = len(bare) == 1 and isinstance(bare[0], type) and issubclass(bare[0], Component)
        return bare[0] if alone else None

    @property
    def optional(self) -> bool:
        """Whether None is allowed."""
        return types.NoneType in _members(self.annotation)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, else the annotation alone."""
    union = typing.get_origin(annotation) in (Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def fields(maker: Callable[..., Any], without: tuple[str, ...] = ()) -> Mapping[str, Setting]:
    """The settings of a component class, or of any callable with annotated keyword-only parameters.

    ``without`` names parameters of a callable that take objects rather than settings.
    """
    if dataclasses.is_dataclass(maker):
        hints = typing.get_type_hints(maker, include_extras=True)
        found = {f.name: Setting(hints[f.name], _default(f)) for f in dataclasses.fields(maker) if f.init}
    else:
        function = maker.__init__ if isinstance(maker, type) else inspect.unwrap(maker)  # type: ignore[misc]
        hints = typing.get_type_hints(function, include_extras=True)
        found = {
            p.name: Setting(hints[p.name], dataclasses.MISSING if p.default is p.empty else p.default)
            for p in inspect.signature(function).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name in hints
        }
    return {key: setting for key, setting in found.items() if key not in without}


def descriptions(maker: Callable[..., Any]) -> Mapping[str, str]:
    """The help of each setting: what the section ``Args:`` of the docstring says, those of base classes included.

    A line ``name: text`` for each setting; text may go on in lines that are indented further.
    """
    found: dict[str, str] = {}
    for part in reversed(maker.__mro__) if isinstance(maker, type) else [maker]:
        section = inspect.cleandoc(vars(part).get("__doc__") or "").partition("Args:\n")[2]
        name = ""
        for line in section.splitlines():
            if line and not line.startswith(" "):
                break
            if entry := re.fullmatch(r" {4}(\w+): (.+)", line):
                name, found[entry[1]] = entry.groups()
            elif name and line.strip():
                found[name] += f" {line.strip()}"
    return found


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def validate(
    maker: Callable[..., Any], values: Mapping[str, Any], where: str = "", without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """``values`` as ``maker`` takes them: text that is a number becomes one, a mapping a component.

    Raises SettingsError with one line for each mistake, which begins with the key, ``where`` in front of it.
    """
    try:
        model = _model(maker, without).model_validate(values)
    except pydantic.ValidationError as error:
        raise SettingsError(_lines(error, fields(maker, without))).under(where) from None
    return {key: getattr(model, f"field_{key}") for key in values}


def build(maker: Callable[..., Any], values: Mapping[str, Any], where: str = "") -> Any:
    """``maker(**values)`` after every value was validated; mistakes carry ``where`` in front of their key."""
    good = validate(maker, values, where)
    try:
        return maker(**good)
    except SettingsError as error:
        raise error.under(where) from None


@functools.cache
def _model(maker: Callable[..., Any], without: tuple[str, ...]) -> type[pydantic.BaseModel]:
    config = pydantic.ConfigDict(
        arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False, extra="forbid"
    )
    # The model's own attribute names ("copy", "json") must stay usable as settings: aliases carry them.
    parts: dict[str, Any] = {
        f"field_{key}": (
            Annotated[setting.annotation, WrapValidator(_no_truth_as_number)],
            Field(alias=key) if setting.default is dataclasses.MISSING else Field(alias=key, default=None),
        )
        for key, setting in fields(maker, without).items()
    }
    return pydantic.create_model("Settings", __config__=config, **parts)


def _no_truth_as_number(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Python takes true for 1; whoever writes it in a file has mistaken the setting."""
    try:
        result = handler(value)
    except OverflowError:
        raise ValueError("is too large for a number") from None
    if isinstance(result, str | PurePath) and "\0" in str(result):
        raise ValueError("must not hold a NUL character")
    if isinstance(result, int) and abs(result) >= 2**63:
        raise ValueError("is too large for a number")
    if _truth_as_number(value, result):
        raise ValueError("must be a number, not true or false")
    return result


def _truth_as_number(value: Any, result: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(result, list | tuple):
        return any(map(_truth_as_number, value, result))
    return isinstance(value, bool) and not isinstance(result, bool)


def _lines(error: pydantic.ValidationError, known: Iterable[str]) -> Iterator[str]:
    """A line for each wrong setting; pydantic reports every member of a union on its own."""
    lines: dict[str, list[str]] = {}
    for part in error.errors():
        # integers are places in a list; strings after the first name members of a union
        where = ".".join(str(step) for i, step in enumerate(part["loc"]) if i == 0 or isinstance(step, int))
        inner = part.get("ctx", {}).get("error")
        if isinstance(inner, SettingsError):
            lines |= {line: [] for line in inner.under(where).mistakes}
        elif part["type"] == "missing":
            lines[f"{where}: required, but not given"] = []
        elif part["type"] in ("extra_forbidden", "invalid_key"):
            lines[f"{where}: unknown setting{nearest(where, known)}"] = []
        else:
            reason = _OWN_WORDS.get(part["type"]) or re.sub(_NOISE, "", re.sub(r"^\w+ should\b", "must", part["msg"]))
            told = lines.setdefault(f"{where}: invalid value {_shown(part['input'])}: ", [])
            if reason not in told:
                told.append(reason.removeprefix("must be ") if told else reason)
    yield from (line + " or ".join(told) for line, told in lines.items())


_NOISE = r"^Value error, |, (unable to|got) .*| after validation.*"
_OWN_WORDS = {"is_instance_of": "must be a mapping of settings", "path_type": "must be a path"}


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(annotation: Any) -> str:
    """An annotation as a person reads it: ``int > 0 | null``, ``joint | split``; text in Annotated as it is."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        if said := [mark for mark in parts[1:] if isinstance(mark, str)]:
            return said[0]
        return " ".join([describe(parts[0]), _bounds(parts[1:])]).strip()
    if origin in (Union, types.UnionType):
        return " | ".join(map(describe, parts))
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (tuple, list):
        return f"[{', '.join('...' if part is ... else describe(part) for part in parts)}]"
    if annotation is types.NoneType:
        return "null"
    return getattr(origin or annotation, "__name__", str(annotation)).lower()


def _bounds(metadata: tuple[Any, ...]) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "min_length": "length >=", "max_length": "length <="}
    marks = [mark for part in metadata for mark in getattr(part, "metadata", [part])]
    return ", ".join(
        f"{sign} {getattr(mark, key)}" for mark in marks for key, sign in signs.items() if hasattr(mark, key)
    )
