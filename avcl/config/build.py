"""From nested settings to the components of a run; configuration errors are reported together."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, PositiveInt

from avcl.config.files import merged
from avcl.errors import SettingsError, UserError
from avcl.registry import registry
from avcl.settings import Component, Seed, build, fields, plain, validate
from avcl.training.saving import Saving

if TYPE_CHECKING:
    from avcl.backbones.protocol import Backbone
    from avcl.backbones.weights import Weights
    from avcl.scenario import Scenario
    from avcl.strategy import Strategy
    from avcl.training.callbacks import Callback

log = logging.getLogger(__name__)


def _known_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


@dataclass(kw_only=True)
class Sections(Component):
    """The top level of a run file.

    A component is its name, or a mapping of ``name`` and its settings; `avcl list` shows the names.

    Args:
        seed: Random seed of initial weights, masks, augmentation, the order of clips and the replay buffer.
        device: Device to run on; auto is a CUDA device where there is one.
        out: Run folder; null for runs/STRATEGY-SCENARIO.
        evaluate_every: Optimizer steps between evaluations within tasks (anytime evaluation); null for task ends only.
        weights: Initial weights: a .safetensors file, "bundled" for those that come with the scenario, or null.
        scenario: Stream of tasks.
        backbone: Audio-video model; the scenario gives it the shape of the clips.
        strategy: Continual-learning method, or a list of methods that run together.
        shared: Settings of the replay buffer for every method that has one: memory, replay, contrastive_scope.
        methods: Settings of each method by its name, used where strategy names it and does not say otherwise.
        learner: Settings of the training loop; see `avcl show learner`.
        checkpoint: When the whole state is saved within tasks, how many are kept; see `avcl show checkpoint`.
        metrics: List of metrics, each a name or a mapping with settings; null for all that are installed.
        loggers: List of loggers, each a name or a mapping with settings: tensorboard, progress, csv, wandb and those of
            other packages; null for all but csv and wandb.
        callbacks: List of callbacks, each a name or a mapping with settings: early-stopping, lr-schedule, or
            module:Class of your own.
    """

    seed: Seed = 0
    device: Annotated[str, AfterValidator(_known_device), "auto | cpu | cuda | cuda:N"] = "auto"
    out: Path | None = None
    evaluate_every: PositiveInt | None = None
    weights: str | None = None
    scenario: Annotated[Any, "name | mapping"] = "synthetic"
    backbone: Annotated[Any, "name | mapping"] = "cav-mae"
    strategy: Annotated[Any, "name | mapping | list"] = "finetune"
    shared: Annotated[Any, "mapping"] = field(default_factory=dict)
    methods: Annotated[Any, "mapping"] = field(default_factory=dict)
    learner: Annotated[Any, "mapping"] = field(default_factory=dict)
    checkpoint: Saving = field(default_factory=Saving)
    metrics: Annotated[Any, "list"] | None = None
    loggers: Annotated[Any, "list"] | None = None
    callbacks: Annotated[Any, "list"] = field(default_factory=list)


def components_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What ``Run`` is made of; raises one SettingsError with a line for every mistake in ``raw``.

    ``settings`` among them is ``raw`` with every default spelled out: it describes the same run.
    """
    registry()  # where it cannot look at all, that is the one thing to say
    raw = {key: value for key, value in raw.items() if value is not None}
    wrong: list[str] = []
    given: dict[str, Any] = {}
    for key, value in raw.items():
        with _collect(wrong):
            given |= validate(Sections, {key: value})
    top = Sections(**given)
    made: dict[str, Any] = {"seed": top.seed, "evaluate_every": top.evaluate_every, "checkpoint": top.checkpoint}
    with _collect(wrong, "device"):
        made["device"] = find_device(top.device)
    with _collect(wrong, "scenario"):
        made["scenario"] = build(*_named("scenarios", top.scenario, "scenario"), "scenario")
    with _collect(wrong, "backbone"):
        cls, values = _named("backbones", top.backbone, "backbone")
        made["backbone"] = _backbone(cls, values, made.get("scenario"), top.seed)
    with _collect(wrong, "weights"):
        made["weights"] = _weights(top.weights, made.get("scenario"))
    made["strategies"] = _strategies(top, wrong)
    made["learner"] = _learner(top, wrong)
    made["metrics"] = _picks(top.metrics, "metrics", wrong)
    made["loggers"] = _picks(top.loggers, "loggers", wrong)
    made["callbacks"] = _callbacks(top, wrong)
    if made["learner"].get("precision") == "fp16" and made.get("device") == "cpu":
        log.warning("learner.precision: fp16 on a CPU, which may have to emulate it: slow; fp32 is another setting")
    if wrong:
        raise SettingsError(wrong)
    names = "+".join(part.name for part in made["strategies"])
    made["method"] = _called(top.strategy) or names
    made["folder"] = top.out or Path("runs", f"{names}-{made['scenario'].name}")
    return {**made, "settings": _spelled_out(top, made)}


def scenario_of(raw: Mapping[str, Any]) -> Scenario:
    """The scenario that a run file names, whatever else is in it; SettingsError lists every mistake."""
    return build(*_named("scenarios", raw.get("scenario", Sections.scenario), "scenario"), "scenario")


def strategies_of(raw: Mapping[str, Any]) -> list[Strategy]:
    """The strategies that a run file names, whatever else is in it; SettingsError lists every mistake."""
    wrong: list[str] = []
    keys = ("strategy", "shared", "methods")
    made = _strategies(Sections(**{key: raw[key] for key in keys if raw.get(key) is not None}), wrong)
    if wrong:
        raise SettingsError(wrong)
    return made


def method_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved sections ``strategy`` and ``learner`` of a run, whose data need not be there; SettingsError."""
    wrong: list[str] = []
    given = {key: raw[key] for key in ("strategy", "shared", "methods", "learner") if raw.get(key) is not None}
    top = Sections(**given)
    made = {"strategies": _strategies(top, wrong), "learner": _learner(top, wrong)}
    if wrong:
        raise SettingsError(wrong)
    return _method(made)


def _spelled_out(top: Sections, made: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of the run, defaults too, as plain values."""
    return {
        "seed": top.seed,
        "device": top.device,
        "out": str(made["folder"]),
        "evaluate_every": top.evaluate_every,
        "weights": top.weights,
        "scenario": _section(made["scenario"]),
        "backbone": _section(made["backbone"]),
        **_method(made),
        "checkpoint": top.checkpoint.settings(),
        "metrics": made["metrics"],
        "loggers": made["loggers"],
        "callbacks": [{"name": part.address, **part.settings()} for part in made["callbacks"]],
    }


def _called(section: Any) -> str:
    """The one method of a run file as the file calls it, which may be a name under ``methods``."""
    name = section.get("name") if isinstance(section, Mapping) else section
    return name if isinstance(name, str) else ""


def _method(made: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run without its data."""
    from avcl.training.learner import settings_of_learner

    strategies = [_section(part) for part in made["strategies"]]
    defaults = {key: setting.default for key, setting in settings_of_learner().items()}
    return {
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
        raise SettingsError([f"{where}: invalid value {section!r}: must be {also}a mapping of settings"])
    return dict(section)


def _places(where: str, section: Any) -> list[tuple[str, Any]]:
    """One section, or each of a list of them, with its full key."""
    if not isinstance(section, list) or not section:
        return [(where, section)]
    return [(f"{where}.{place}", part) for place, part in enumerate(section)]


def _learner(top: Sections, wrong: list[str]) -> dict[str, Any]:
    """The settings of the learner that are given."""
    from avcl.training.learner import OBJECTS, Learner

    with _collect(wrong, "learner"):
        return validate(Learner, _mapping(top.learner, "learner"), "learner", without=OBJECTS)
    return {}


def _strategies(top: Sections, wrong: list[str]) -> list[Strategy]:
    """The strategies with their settings: their own section's, else the file's by name, else those that all share."""
    shared, methods = _declared(top, wrong)
    made: list[Strategy] = []
    for where, section in _places("strategy", top.strategy):
        with _collect(wrong, where):
            name = section if isinstance(section, str) else _mapping(section, where, "a name or ").get("name")
            entry = methods.get(name, {}) if isinstance(name, str) else {}
            if "name" in entry:
                section = {**({} if isinstance(section, str) else section), "name": entry["name"]}
            cls, given = _named("strategies", section, where)
            common = {key: value for key, value in shared.items() if key in fields(cls)}
            own = {key: value for key, value in entry.items() if key != "name"}
            made.append(build(cls, merged(merged(common, own), given), where))
    return made


def _listed(value: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, section) of every part of a list; a section is a mapping with a name."""
    if not isinstance(value, list):
        raise SettingsError([f"{where}: invalid value {value!r}: must be a list of names or mappings"])
    named = []
    for place, part in enumerate(value):
        section = {"name": part} if isinstance(part, str) else _mapping(part, f"{where}.{place}", "a name or ")
        if not isinstance(section.get("name"), str):
            raise SettingsError([f"{where}.{place}.name: invalid value {section.get('name')!r}: must be a name"])
        named.append((f"{where}.{place}", section))
    return named


def _picks(value: Any, where: str, wrong: list[str]) -> list[dict[str, Any]] | None:
    """Metrics or loggers by name, with settings; who they are is known once plugins have made them for a run."""
    with _collect(wrong):
        return None if value is None else [section for _, section in _listed(value, where)]
    return None


def _callbacks(top: Sections, wrong: list[str]) -> list[Callback]:
    """The callbacks with their settings; early stopping needs evaluations within tasks."""
    from avcl.training.callbacks import EarlyStopping, find_callback

    made: list[Callback] = []
    with _collect(wrong):
        for where, section in _listed(top.callbacks, "callbacks"):
            with _collect(wrong, where):
                cls = find_callback(section.pop("name"))
                made.append(build(cls, section, where))
    if top.evaluate_every is None and any(isinstance(part, EarlyStopping) for part in made):
        wrong.append("evaluate_every: required with early-stopping, which watches evaluations within tasks")
    return made


def _declared(top: Sections, wrong: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """``shared`` and ``methods`` as far as they are right, whichever of them this run uses."""
    from avcl.strategy import Rehearsal

    shared: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {}
    with _collect(wrong, "shared"):
        validate(Rehearsal, _mapping(top.shared, "shared"), "shared")
        shared = dict(top.shared)
    with _collect(wrong, "methods"):
        for name, entry in _mapping(top.methods, "methods").items():
            with _collect(wrong, f"methods.{name}"):
                section = {"name": name, **_mapping(entry or {}, f"methods.{name}")}
                validate(*_named("strategies", section, f"methods.{name}"), f"methods.{name}")
                methods[name] = dict(entry or {})
    return shared, methods


def _named(kind: str, section: Any, where: str) -> tuple[type[Any], dict[str, Any]]:
    """The class that a section names, and the settings that it gives."""
    values = {"name": section} if isinstance(section, str) else _mapping(section, where, "a name or ")
    name = values.pop("name") if "name" in values else getattr(Sections, where.partition(".")[0])
    if not isinstance(name, str):
        raise SettingsError([f"{where}.name: invalid value {name!r}: must be a name that `avcl list` shows"])
    return registry().find(kind, name), values


def _backbone(cls: type[Backbone], values: dict[str, Any], scenario: Scenario | None, seed: int) -> Backbone | None:
    """The backbone for the scenario's clips, a function of the seed; without a scenario it is only checked."""
    import torch

    from avcl.clip import Shape

    if scenario is None:
        own = {key: value for key, value in values.items() if key not in Shape._fields}
        validate(cls, own, "backbone", without=Shape._fields)
        return None
    wrong: list[str] = []
    for key, size in scenario.shape._asdict().items():
        if key in fields(cls) and values.setdefault(key, size) != size:
            told = f"invalid value {values[key]!r}: must be {size}, as in the clips of {scenario.name!r}; leave it out"
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
        raise UserError(f"invalid value {source!r}: {told}; must be null, or a file that {makers} wrote")
    return load_weights(path)


def find_device(device: str) -> str:
    """The device to use: ``auto`` is a CUDA device where there is one; UserError where there is none of that name."""
    import torch

    try:
        _known_device(device)
    except ValueError as error:
        raise UserError(f"invalid value {device!r}: {error}") from None
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and int(device[5:] or 0) >= torch.cuda.device_count():
        known = f"auto, cpu or one of {torch.cuda.device_count()} CUDA devices"
        raise UserError(f"invalid value {device!r}: must be {known}")
    return device
