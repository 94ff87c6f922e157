"""What ran, as `run.json` says it, and what a resumed run may change of it."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from avcl.errors import UserError

DISTRIBUTIONS = ("avcl", "torch", "torchaudio", "torchvision", "avalanche-lib", "timm", "av", "numpy")

HARMLESS = {
    "out": "a run folder may be moved",
    "loggers": "they only write down",
    "learner.workers": "what a clip is depends on seed, epoch and clip alone, whoever reads it",
    "learner.loader_timeout": "it only says when a run ends with an error",
    "learner.max_bad_share": "it only says when a run ends with an error",
    "scenario.verify": "it reads the bytes of a store once more, to compare them",
    "checkpoint": "when a run saves its state does not change it",
}
"""Settings that may differ when a run is resumed, and why that cannot change its result.

The number of a CUDA device may, too, and that of processes, which changes no more than the rounding of sums. Not among
them: the kind of device and ``eval_batch_size``, which change it where a user would not expect it.
"""

NOTED = (*(f"settings.{key}" for key in HARMLESS), "settings.device", "plugins", "method", "processes")
"""Keys of ``run.json`` whose change is noted; ``device`` is compared as what it came to, not as ``auto``."""

DERIVED = ("seed", "needs_boundaries", "joint", "parameters", "clips", "data")
"""Keys that follow from the settings and the files: what to say where all settings agree."""

MISSING: Any = object()


def started() -> dict[str, Any]:
    """How this process was started, and with what."""
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in DISTRIBUTIONS},
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """What a run wrote; UserError where the file is damaged, or no run's."""
    todo = "restore it, or choose another folder with --out"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); {todo}") from None
    kinds = {"settings": dict, "versions": dict, "resumed": list}
    told = {"resumed": [], **content} if isinstance(content, dict) else {}
    if not all(isinstance(told.get(key), kind) for key, kind in kinds.items()) or "avcl" not in told["versions"]:
        raise UserError(f"{path}: not written by a run of avcl; {todo}")
    return content


def resumed(then: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """``then``, the manifest at ``path``, with a note of this resume; UserError where ``now`` is another run.

    The error has a line for each difference that may change the result.
    """
    here = json.loads(json.dumps(now))
    found = {key: pair for key, *pair in _differences({key: then.get(key) for key in here}, here)}
    wrong = {key: pair for key, pair in found.items() if not _is_noted(key, *pair)}
    if wrong:
        first = {key: pair for key, pair in wrong.items() if key.partition(".")[0] not in DERIVED} or wrong
        lines = [f"{_short(key)}: {_said(a)} in {path}, {_said(b)} now" for key, (a, b) in first.items()]
        allowed = f"{', '.join(HARMLESS)}, the number of a CUDA device and of processes"
        raise UserError("\n".join([*lines, f"--resume may change {allowed}; for other settings choose another --out"]))
    about = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **started()}
    changed = {_short(key): [_said(a), _said(b)] for key, (a, b) in found.items()}
    return {**then, "resumed": [*then.get("resumed", []), {**about, "changed": changed}]}


def other_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two ``settings`` and may change the result, in words."""
    here = json.loads(json.dumps(now))
    found = {f"settings.{key}": pair for key, *pair in _differences(then, here)}
    wrong = {key: pair for key, pair in found.items() if not _is_noted(key, *pair)}
    return [f"{_short(key)}: {_said(a)} there, {_said(b)} now" for key, (a, b) in wrong.items()]


def _differences(then: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, then, now) of every value that differs; of components of different names the name."""
    dot = f"{key}." if key else ""
    if isinstance(then, dict) and isinstance(now, dict) and then.get("name") == now.get("name"):
        for part in dict.fromkeys((*then, *now)):
            yield from _differences(then.get(part, MISSING), now.get(part, MISSING), f"{dot}{part}")
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        places = range(len(now)) if any(isinstance(part, dict) for part in now) else ()
        for place in places:
            yield from _differences(then[place], now[place], f"{dot}{place}")
        if not places and then != now:
            yield key, then, now
    elif then != now:
        yield key, then, now


def _is_noted(key: str, then: Any, now: Any) -> bool:
    """Whether a difference cannot change the result."""
    if key == "device":
        return str(then).partition(":")[0] == str(now).partition(":")[0]
    return any(key == noted or key.startswith(f"{noted}.") for noted in NOTED)


def _short(key: str) -> str:
    """The key of a setting as files and ``--set`` call it."""
    return key.removeprefix("settings.")


def _said(value: Any) -> str:
    """A value in a line; a component by its name."""
    if value is MISSING:
        return "not set"
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    return f"[{', '.join(map(_said, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of avcl's own source, ``+changes`` if it was edited since; None outside of a clone."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
