"""The signature is the schema: a component's fields are its settings, in Python, in YAML and in messages."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Union

import pydantic
from pydantic import Field, WrapValidator

from avcl.errors import SettingsError, nearest

Count = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Component:
    """A keyword-only dataclass that avcl can build from YAML, show, and check.

    ``name`` is how files and the command line call it. Every field is checked against its annotation when
    the object is made, whoever makes it; ``mistakes`` adds what one annotation cannot say.
    """

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check the fields; raises SettingsError with one line for each mistake."""
        for key, value in check(type(self), {key: getattr(self, key) for key in fields(type(self))}).items():
            setattr(self, key, value)
        wrong = list(self.mistakes())
        if wrong:
            raise SettingsError(wrong)

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


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def check(
    maker: Callable[..., Any], values: Mapping[str, Any], where: str = "", without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """``values`` as ``maker`` takes them; raises SettingsError with one line for each mistake.

    Every line begins with the key, ``where`` in front of it.
    """
    known = fields(maker, without)
    prefix = f"{where}." if where else ""
    given: dict[str, Any] = {}
    wrong: dict[str, list[str]] = {}
    for key, value in values.items():
        if key not in known:
            wrong[key] = [f"{prefix}{key}: unknown setting{nearest(str(key), known)}"]
            continue
        part = known[key].component
        try:
            given[key] = build(part, value, prefix + key) if part and isinstance(value, Mapping) else value
        except SettingsError as error:
            wrong[key] = error.mistakes
    try:
        model = _model(maker, without).model_validate(given)
    except pydantic.ValidationError as error:
        told = set(wrong)
        for key, line in _lines(error):
            if key not in told:
                wrong.setdefault(key, []).append(prefix + line)
    if wrong:
        raise SettingsError(line for lines in wrong.values() for line in lines)
    return {key: getattr(model, f"field_{key}") for key in given}


def build(maker: Callable[..., Any], values: Mapping[str, Any], where: str = "") -> Any:
    """``maker(**values)`` after every value was checked; mistakes carry ``where`` in front of their key."""
    good = check(maker, values, where)
    try:
        return maker(**good)
    except SettingsError as error:
        prefix = f"{where}." if where else ""
        raise SettingsError(prefix + line for line in error.mistakes) from None


@functools.cache
def _model(maker: Callable[..., Any], without: tuple[str, ...]) -> type[pydantic.BaseModel]:
    config = pydantic.ConfigDict(arbitrary_types_allowed=True, protected_namespaces=(), allow_inf_nan=False)
    # The model's own attribute names ("copy", "json") must stay usable as settings: aliases carry them.
    parts: dict[str, Any] = {
        f"field_{key}": (
            Annotated[_checked(setting), WrapValidator(_no_truth_as_number)],
            Field(alias=key) if setting.default is dataclasses.MISSING else Field(alias=key, default=None),
        )
        for key, setting in fields(maker, without).items()
    }
    return pydantic.create_model("Settings", __config__=config, **parts)


def _checked(setting: Setting) -> Any:
    """What pydantic is to check: a component only for being one, because it has checked itself."""
    if setting.component is None:
        return setting.annotation
    whole = pydantic.InstanceOf[setting.component]  # type: ignore[name-defined]
    return whole | None if setting.optional else whole


def _no_truth_as_number(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Python takes true for 1; whoever writes it in a file has mistaken the setting."""
    result = handler(value)
    if _truth_as_number(value, result):
        raise ValueError("input should be a number, not true or false")
    return result


def _truth_as_number(value: Any, result: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(result, list | tuple):
        return any(map(_truth_as_number, value, result))
    return isinstance(value, bool) and not isinstance(result, bool)


def _lines(error: pydantic.ValidationError) -> Iterator[tuple[str, str]]:
    """Each wrong setting and its line; pydantic reports every member of a union on its own."""
    reasons: dict[str, tuple[Any, list[str]]] = {}
    for part in error.errors():
        # integers are places in a list; strings after the first name members of a union
        where = ".".join(str(step) for i, step in enumerate(part["loc"]) if i == 0 or isinstance(step, int))
        reason = part["msg"].removeprefix("Value error, ").split(", unable to")[0]
        reason = _OWN_WORDS.get(part["type"], reason[0].lower() + reason[1:])
        seen = reasons.setdefault(where, (part, []))[1]
        if reason not in seen:
            seen.append(reason if not seen else reason.removeprefix("input should be "))
    for where, (part, texts) in reasons.items():
        if part["type"] == "missing":
            yield str(part["loc"][0]), f"{where}: required, but not given"
        else:
            yield str(part["loc"][0]), f"{where}: {_shown(part['input'])} is not allowed: {' or '.join(texts)}"


_OWN_WORDS = {"is_instance_of": "a mapping of settings is needed", "path_type": "input should be a path"}


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def describe(annotation: Any) -> str:
    """An annotation as a person reads it: ``int > 0 | null``, ``'joint' | 'split'``, ``[float, float]``."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(parts[0]), _bounds(parts[1:])]).strip()
    if origin in (Union, types.UnionType):
        return " | ".join(map(describe, parts))
    if origin is Literal:
        return " | ".join(map(repr, parts))
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
