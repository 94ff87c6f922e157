"""From nested settings to the parts of a run; all mistakes of a file in one message."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from avcl.config.files import dump as dump
from avcl.config.files import load as load
from avcl.errors import SettingsError, UserError
from avcl.registry import registry
from avcl.settings import Component, Natural, build, check, fields, plain

if TYPE_CHECKING:
    from avcl.backbones.protocol import Backbone
    from avcl.backbones.weights import Weights
    from avcl.scenario import Scenario


def _known_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("input should be auto, cpu, cuda or cuda:N")
    return value


@dataclass(kw_only=True)
class Sections(Component):
    """The top of a file. ``scenario``, ``backbone`` and ``strategy`` are names, or mappings with a ``name``."""

    seed: Natural = 0
    device: Annotated[str, AfterValidator(_known_device)] = "auto"
    out: Path | None = None
    weights: str | None = None
    scenario: Any = "synthetic"
    backbone: Any = "cav-mae"
    strategy: Any = "finetune"
    learner: Any = field(default_factory=dict)


def parts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What ``Run`` is made of; raises one SettingsError with a line for every mistake in ``raw``.

    ``settings`` among them is ``raw`` with every default spelled out: it describes the same run.
    """
    from avcl.training.learner import OBJECTS, Learner

    registry()  # where it cannot look at all, that is the one thing to say
    raw = {key: value for key, value in raw.items() if value is not None}
    wrong: list[str] = []
    with _collect(wrong):
        check(Sections, raw)
    unusable = {line.partition(":")[0] for line in wrong}
    top = Sections(**{key: raw[key] for key in raw.keys() & fields(Sections).keys() - unusable})
    made: dict[str, Any] = {"seed": top.seed, "strategies": []}
    with _collect(wrong, "device"):
        made["device"] = _device(top.device)
    with _collect(wrong, "scenario"):
        made["scenario"] = build(*_named("scenarios", top.scenario, "scenario"), "scenario")
    with _collect(wrong, "backbone"):
        cls, values = _named("backbones", top.backbone, "backbone")
        made["backbone"] = _backbone(cls, values, made.get("scenario"), top.seed)
    with _collect(wrong, "weights"):
        made["weights"] = _weights(top.weights, made.get("scenario"))
    for where, section in _places("strategy", top.strategy):
        with _collect(wrong, where):
            made["strategies"].append(build(*_named("strategies", section, where), where))
    with _collect(wrong, "learner"):
        made["learner"] = check(Learner, _mapping(top.learner, "learner"), "learner", without=OBJECTS)
    if wrong:
        raise SettingsError(wrong)
    names = "+".join(part.name for part in made["strategies"])
    made["folder"] = top.out or Path("runs", f"{names}-{made['scenario'].name}")
    return {**made, "settings": _spelled_out(top, made)}


def scenario_of(raw: Mapping[str, Any]) -> Scenario:
    """The scenario that a file describes, whatever else is in it; SettingsError lists every mistake."""
    return build(*_named("scenarios", raw.get("scenario", Sections.scenario), "scenario"), "scenario")


def _spelled_out(top: Sections, made: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of the run, defaults too, as plain values."""
    from avcl.training.learner import settings_of_learner

    strategies = [_section(part) for part in made["strategies"]]
    defaults = {key: setting.default for key, setting in settings_of_learner().items()}
    return {
        "seed": top.seed,
        "device": top.device,
        "out": str(made["folder"]),
        "weights": top.weights,
        "scenario": _section(made["scenario"]),
        "backbone": _section(made["backbone"]),
        "strategy": strategies[0] if len(strategies) == 1 else strategies,
        "learner": plain(defaults | made["learner"]),
    }


def _section(part: Component) -> dict[str, Any]:
    return {"name": part.name, **part.settings()}


@contextlib.contextmanager
def _collect(wrong: list[str], where: str = "") -> Iterator[None]:
    """Turn the mistakes made within this block into lines of ``wrong``, and go on behind it."""
    try:
        yield
    except SettingsError as error:
        wrong += error.mistakes
    except UserError as error:
        wrong.append(f"{where}: {error}")


def _mapping(section: Any, where: str, also: str = "") -> dict[str, Any]:
    if not isinstance(section, Mapping):
        raise SettingsError([f"{where}: {section!r} is not allowed: {also}a mapping of settings is needed"])
    return dict(section)


def _places(where: str, section: Any) -> list[tuple[str, Any]]:
    """One section, or each of a list of them, with its full key."""
    if not isinstance(section, list) or not section:
        return [(where, section)]
    return [(f"{where}.{place}", part) for place, part in enumerate(section)]


def _named(kind: str, section: Any, where: str) -> tuple[type[Any], dict[str, Any]]:
    """The class that a section names, and the settings that it gives."""
    values = {"name": section} if isinstance(section, str) else _mapping(section, where, "a name or ")
    name = values.pop("name", getattr(Sections, where.partition(".")[0]))
    if not isinstance(name, str):
        raise SettingsError([f"{where}.name: {name!r} is not allowed: a name that `avcl list` shows is needed"])
    return registry().find(kind, name), values


def _backbone(cls: type[Backbone], values: dict[str, Any], scenario: Scenario | None, seed: int) -> Backbone | None:
    """The backbone for the scenario's clips, a function of the seed; without a scenario it is only checked."""
    import torch

    from avcl.clip import Shape

    if scenario is None:
        own = {key: value for key, value in values.items() if key not in Shape._fields}
        check(cls, own, "backbone", without=Shape._fields)
        return None
    wrong: list[str] = []
    for key, size in scenario.shape._asdict().items():
        if key in fields(cls) and values.setdefault(key, size) != size:
            told = f"{values[key]!r} is not allowed: the clips of {scenario.name!r} have {size}; leave it out"
            wrong.append(f"backbone.{key}: {told}")
            values[key] = size
    backbone = None
    with _collect(wrong, "backbone"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build(cls, values, "backbone")
    if wrong:
        raise SettingsError(wrong)
    return backbone


def _weights(source: str | None, scenario: Scenario | None) -> Weights | None:
    """The weights to start from; ``bundled`` are those that come with the scenario."""
    from avcl.backbones.weights import load_weights

    if source is None or (source == "bundled" and scenario is None):
        return None
    path, told = Path(source), "no such file"
    if scenario is not None and source == "bundled":
        path = scenario.bundled_weights
        told = f"scenario {scenario.name!r} brings none"
    if not path.is_file():
        makers = "`avcl pretrain` or `avcl weights import`"
        raise UserError(f"{source!r} is not allowed: {told}; give null, or a file that {makers} wrote")
    return load_weights(path)


def _device(device: str) -> str:
    """The device to use: ``auto`` is a CUDA device where there is one."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and int(device[5:] or 0) >= torch.cuda.device_count():
        raise UserError(f"{device!r} is not allowed: there are {torch.cuda.device_count()} CUDA devices; give auto")
    return device
