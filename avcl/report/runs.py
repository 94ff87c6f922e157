"""Finished runs as their folders tell of them: found, read, and grouped by stream and method."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avcl.errors import UserError

log = logging.getLogger(__name__)

MEASURED = {"bytes": "buffer_bytes", "passes": "clip_passes"}
"""What a sweep measures of a method under a budget, and its name in ``sweep.json``."""

INCIDENTAL = (
    *("seed", "out", "device", "checkpoint", "loggers", "metrics", "evaluate_every"),
    *("learner.workers", "learner.max_bad_share", "learner.eval_batch_size"),
)
"""Settings that make no other method or stream: where and on what it ran, what was measured and written down."""


@dataclass(frozen=True)
class FoundRun:
    """What a finished run left in ``folder``: ``manifest`` is its ``run.json``, ``results`` its ``results.json``."""

    folder: Path
    manifest: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Its random seed."""
        return int(self.manifest["seed"])

    @property
    def tasks(self) -> list[str]:
        """Names of the stream's tasks."""
        return list(self.results["tasks"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting that makes the run what it is, by its full key, as in ``learner.lr``."""
        settings = _flat(self.manifest["settings"])
        return {key: value for key, value in settings if not _below(key, INCIDENTAL)}

    @cached_property
    def method(self) -> str:
        """What the run file calls the method: its own name, or one under ``methods`` such as ``stella-paper``."""
        return self.manifest.get("method") or _started_as(self.manifest) or "+".join(self.results["strategy"])

    @cached_property
    def measured(self) -> Mapping[str, Any]:
        """What the sweep to which the run belongs measured of its method; empty where it did not."""
        path = self.folder.parent / "sweep.json"
        sweep = _read(path) if path.is_file() else {}
        own = sweep.get("runs", {}).get(self.folder.name)
        if own is None:
            return {}
        told = [f"{key.removeprefix('strategy.')}={said(value)}" for key, value in own["varied"].items()]
        budget = sweep["budget"]
        return {"budget": budget["kind"], **budget.get("methods", {}).get(" ".join([own["method"], *told]), {})}

    def file(self, name: str) -> Any:
        """The content of another JSON file of the folder; None where there is none."""
        path = self.folder / name
        return _read(path) if path.is_file() else None


@dataclass(frozen=True)
class Stream:
    """Runs on one stream of tasks: ``methods`` has those of each method, one for each seed, in the order found."""

    name: str
    methods: Mapping[str, Sequence[FoundRun]]

    @property
    def runs(self) -> list[FoundRun]:
        """All of them."""
        return [run for runs in self.methods.values() for run in runs]


def find_runs(places: Iterable[str | Path]) -> list[FoundRun]:
    """The finished runs in ``places``: run folders, folders of run folders, or patterns such as ``runs/er-*``.

    One that has not finished is named and left out; UserError where a place does not exist, or nothing is left.
    """
    words = [str(place) for place in places]
    folders = list(dict.fromkeys(folder for word in words for folder in _folders(word)))
    runs = [run for folder in folders if (run := _run(folder)) is not None]
    if not runs:
        raise UserError(f"{', '.join(words)}: no finished run; a run folder holds run.json and results.json")
    return runs


def streams_of(runs: Iterable[FoundRun]) -> list[Stream]:
    """The runs by stream and method; what has other settings is another method, named by what differs.

    UserError where two of them are the same run.
    """
    by_stream: dict[str, list[FoundRun]] = {}
    for run in runs:
        by_stream.setdefault(_key(run, "scenario") + json.dumps(run.tasks), []).append(run)
    firsts = [found[0] for found in by_stream.values()]
    names = named({run.folder: run.results["scenario"] for run in firsts}, {r.folder: _stream(r) for r in firsts})
    return [Stream(names[found[0].folder], _methods(found)) for found in by_stream.values()]


def named(names: Mapping[Any, str], settings: Mapping[Any, Mapping[str, Any]]) -> dict[Any, str]:
    """A label for each: its name, and where several have that name its settings that are not the same for all."""
    labels = {}
    for key, name in names.items():
        told = differing([settings[other] for other in names if names[other] == name])
        told = [f"{_short(part)}={said(value)}" for part, value in settings[key].items() if part in told]
        labels[key] = " ".join([name, *told])
    return labels


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values are not the same everywhere, in the order found."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if len({json.dumps(one.get(key, "-")) for one in settings}) > 1]


def value_of(run: FoundRun, key: str) -> Any:
    """A setting of a run by its full key, or what its sweep measured: ``bytes`` of replay, ``passes``; None without."""
    if key in MEASURED:
        return run.measured.get(MEASURED[key])
    return run.settings.get(key)


def said(value: Any) -> str:
    """A setting's value in a label."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _folders(place: str) -> Iterator[Path]:
    found = [Path(name) for name in sorted(glob.glob(place))] if glob.has_magic(place) else [Path(place)]
    if not found or not found[0].exists():
        raise UserError(f"{place}: no such folder; give run folders, folders of run folders or a pattern in quotes")
    for path in found:
        inside = [path] if (path / "run.json").is_file() else [p.parent for p in sorted(path.rglob("run.json"))]
        if not inside and path.is_dir() and not glob.has_magic(place):
            raise UserError(f"{place}: no run folder in it; a run folder holds run.json")
        yield from inside


def _run(folder: Path) -> FoundRun | None:
    manifest = _read(folder / "run.json")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("settings"), dict) or "seed" not in manifest:
        raise UserError(f"{folder / 'run.json'}: not written by a run of avcl; leave this folder out")
    results = _read(folder / "results.json") if (folder / "results.json").is_file() else {}
    wanted = 1 if manifest.get("joint") else len(results.get("tasks", ()))
    if not results or results["tasks_done"] < wanted:
        log.warning("%s: not finished (%s of its tasks); left out", folder, results.get("tasks_done", "none"))
        return None
    return FoundRun(folder, manifest, results)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it, or leave this folder out") from None


def _methods(runs: Sequence[FoundRun]) -> dict[str, list[FoundRun]]:
    groups: dict[tuple[str, str], list[FoundRun]] = {}
    for run in runs:
        groups.setdefault((run.method, _key(run, "")), []).append(run)
    for found in groups.values():
        by_seed: dict[int, FoundRun] = {}
        for run in found:
            if (other := by_seed.setdefault(run.seed, run)) is not run:
                raise UserError(
                    f"{run.folder}: the same method, settings and seed as {other.folder}; leave one of them out"
                )
        found.sort(key=lambda run: run.seed)
    firsts = {key: found[0] for key, found in groups.items()}
    labels = named({key: key[0] for key in groups}, {key: run.settings for key, run in firsts.items()})
    return {labels[key]: found for key, found in groups.items()}


def _key(run: FoundRun, section: str) -> str:
    settings = {key: value for key, value in run.settings.items() if not section or _below(key, [section])}
    return json.dumps(settings, sort_keys=True)


def _stream(run: FoundRun) -> dict[str, Any]:
    return {key: value for key, value in run.settings.items() if _below(key, ["scenario"])}


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, value) of every setting; an empty section is a value, a list of plain values too."""
    dot = f"{key}." if key else ""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _flat(value, f"{dot}{name}")
    elif isinstance(node, list) and any(isinstance(part, Mapping) for part in node):
        for place, part in enumerate(node):
            yield from _flat(part, f"{dot}{place}")
    else:
        yield key, node


def _below(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _short(key: str) -> str:
    """A setting of the method without its section."""
    return key.removeprefix("strategy.").removeprefix("scenario.")


def _started_as(manifest: Mapping[str, Any]) -> str:
    """The one method that the run's command names, for folders of versions that did not write it down."""
    words = list(manifest.get("command") or ())
    for option in ("--strategy", "--methods"):
        if option in words:
            rest = words[words.index(option) + 1 :]
            end = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
            if end == 1:
                return str(rest[0])
    return ""
