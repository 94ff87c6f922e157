"""Nested settings from YAML files and ``--set``, and back to text; every error names file, line and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from avcl.config.bundled import find_base
from avcl.errors import UserError


def read_config(path: str | Path | None = None, sets: Iterable[str] = (), strategy: str = "") -> dict[str, Any]:
    """The nested settings of a YAML file, changed by assignments such as ``strategy.memory.capacity=100``.

    A file that names a ``base``, one beside it or a bundled run file, says what differs from that. ``strategy`` puts
    another method in place of the file's, as ``with_strategy`` does, before anything is assigned.
    """
    tree = {} if path is None else _read(Path(path))
    if strategy:
        from avcl.config.methods import with_strategy

        tree = with_strategy(tree, strategy)
    return with_sets(tree, sets)


def with_sets(tree: Mapping[str, Any], sets: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """``tree`` changed by assignments such as ``learner.lr=1e-4``, which ``option`` gives."""
    tree = dict(tree)
    for assignment in sets:
        tree = _assign(tree, assignment, option)
    return tree


def read_choices(words: Iterable[str], option: str) -> dict[str, list[Any]]:
    """The values of each setting of assignments such as ``learner.lr=1e-3,1e-4``, which ``option`` gives."""
    return dict(_choice(word, option) for word in words)


def assigned(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with the value of each full key, such as ``learner.lr``, in its place."""
    changed = dict(tree)
    for key, value in values.items():
        changed = _put(changed, key.split("."), value, f"--set {key}")
    return changed


def dump_config(settings: Mapping[str, Any]) -> str:
    """Nested settings as YAML text, which ``read_config`` reads back as they are."""
    return yaml.dump(dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` changed by ``over``, setting by setting; a section with the name of another component replaces it."""
    tree = dict(base)
    for key, value in over.items():
        below = {"name": tree[key]} if isinstance(tree.get(key), str) else tree.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            same = value.get("name", below.get("name")) == below.get("name")
            value = merged(below, value) if same else value
        tree[key] = value
    return tree


class _Loader(yaml.SafeLoader):
    """Plain values as in YAML 1.2: PyYAML still reads 1e-4 as text, ``no`` as false and 16:9 as 969."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (the base class calls it an attribute)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As PyYAML does, but a key that is given twice is an error."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in lines:
                told = f"the key {key.value!r} is given twice, first on line {lines[key.value]}"
                raise yaml.composer.ComposerError(problem=told, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """As PyYAML does, but aliases that grow beyond ``MOST`` values, or into themselves, are an error."""
        root = super().get_single_node()
        if isinstance(root, yaml.CollectionNode):
            _expanded(root, {})
        return root

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does; a value that does not fit its tag is an error with its place."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError, TypeError) as error:
            told = f"the value does not fit {node.tag.rpartition(':')[2]} ({' '.join(str(error).split())[:100]})"
            raise yaml.constructor.ConstructorError(problem=told, problem_mark=node.start_mark) from None


LONGEST = 1_000_000
"""Characters of a run file: far more than any has, and far less than /dev/zero."""

MOST = 100_000
"""Values of a run file, each alias counted as what it stands for: far more than any has."""


def _expanded(node: Any, sizes: dict[int, int]) -> int:
    """How many values a list or mapping holds; ``sizes`` are those of nodes seen before, 0 of the ones around it."""
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise yaml.composer.ComposerError(problem="the alias holds itself", problem_mark=node.start_mark)
        return known
    sizes[id(node)] = 0
    parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    size = 1 + sum(_expanded(part, sizes) for part in parts if isinstance(part, yaml.CollectionNode))
    size += sum(not isinstance(part, yaml.CollectionNode) for part in parts)
    if size > MOST:
        told = f"the aliases stand for more than {MOST:,} values"
        raise yaml.composer.ComposerError(problem=told, problem_mark=node.start_mark)
    sizes[id(node)] = size
    return size


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would read as something else."""


_PLAIN = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}
for _kind, _pattern in _PLAIN.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), None)


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
        if len(text) > LONGEST:
            raise UserError(f"{path}: longer than {LONGEST:,} characters: no run file")
        tree = _parse(text, lambda line, column: f"{path}:{line}:{column}")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: invalid value {tree!r}: must be a mapping of settings")
    if "base" not in tree:
        return tree
    base, chain = tree.pop("base"), (*above, path.resolve())
    if not isinstance(base, str):
        raise UserError(f"{path}: base: invalid value {base!r}: must be the name of a run file")
    try:
        found = find_base(base, path)
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None
    if found.resolve() in chain:
        raise UserError(f"{path}: base: {base} is based on this file; a base must not lead back")
    return merged(_read(found, chain), tree)


def _parse(text: str, place: Callable[[int, int], str]) -> Any:
    """The value of a YAML text; UserError begins with the ``place`` of the mistake, counted from 1."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = place(mark.line + 1, mark.column + 1) if mark else place(1, 1)
        raise UserError(f"{where}: not valid YAML: {' '.join(filter(None, (error.context, error.problem)))}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{place(1, 1)}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{place(1, 1)}: not valid settings: nested too deeply") from None


def _assign(tree: dict[str, Any], assignment: str, option: str) -> dict[str, Any]:
    key, equals, text = assignment.partition("=")
    if not equals or not all(key.split(".")):
        example = "timeout_min=600" if option == "--slurm" else "learner.lr=1e-4"
        raise UserError(f"{option} {assignment}: must be key=value, as in {example}")
    value = _parse(text, lambda line, column: f"{option} {assignment}")
    return _put(tree, key.split("."), value, f"{option} {key}")


def _choice(word: str, option: str) -> tuple[str, list[Any]]:
    key, equals, text = word.partition("=")
    values = _parse(f"[{text}]", lambda line, column: f"{option} {word}") if equals else []
    if not values or not all(key.split(".")):
        raise UserError(f"{option} {word}: must be key=value,value,..., as in learner.lr=1e-3,1e-4")
    return key, values


def _put(node: Any, steps: list[str], value: Any, told: str) -> Any:
    """``node`` with ``value`` at the end of ``steps``; a name grows into a mapping, a number is a place."""
    if not steps:
        return value
    step, *rest = steps
    if isinstance(node, list):
        if step not in map(str, range(len(node))):
            raise UserError(f"{told}: {step!r} is not a place in a list of {len(node)}; the first one is 0")
        place = int(step)
        return [*node[:place], _put(node[place], rest, value, told), *node[place + 1 :]]
    if isinstance(node, str):
        node = {"name": node}
    if node is not None and not isinstance(node, dict):
        raise UserError(f"{told}: {node!r} has no settings, so {step!r} cannot be set")
    return {**(node or {}), step: _put((node or {}).get(step), rest, value, told)}
