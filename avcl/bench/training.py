"""Side by side on this device: clips per second, memory, passes and multiply-adds of every method's training step."""

from __future__ import annotations

import logging
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch.optim import Optimizer

from avcl.backbones.protocol import Backbone
from avcl.bench.arithmetic import clock_of, matrix_speed, multiply_adds
from avcl.bench.passes import counted
from avcl.bench.peaks import OnDevice, OnHost
from avcl.bench.stages import Spent, Stages
from avcl.compat import quiet_evaluator
from avcl.config.build import find_device
from avcl.config.files import merged, with_sets
from avcl.errors import UserError
from avcl.experiment.manifest import started
from avcl.memory import Memory
from avcl.metrics import LossTerms
from avcl.registry import registry
from avcl.scenario import Scenario
from avcl.settings import Component, Seed, build
from avcl.strategy import Rehearsal, Strategy
from avcl.training.learner import HALF, Learner
from avcl.utils.console import shown

log = logging.getLogger(__name__)

PUBLISHED = {"frames": 4, "height": 224, "width": 224, "times": 1024, "mels": 128}
SHAPES: Mapping[str, Mapping[str, int]] = {"tiny": {}, "small": PUBLISHED, "base": PUBLISHED}
"""Of the rendered clips of each size of CAV-MAE; the tiny one is for the scenario's own."""
BATCH_SIZES = {"cpu": {"tiny": 32, "small": 4, "base": 2}, "cuda": {"tiny": 32, "small": 9, "base": 9}}
"""Current clips of a step; 9 is what one GPU of the paper's Table 2 had."""
ROOM = 8  # steps of current clips that the replay buffer holds: more than any method draws candidates for
LEAST = 0.5  # seconds that one turn takes at least
SECTIONS = ("strategy", "backbone", "learner")


@dataclass(kw_only=True)
class TrainingBench(Component):
    """What is measured; ``measure`` does it.

    Args:
        strategies: Methods by name; all stands for all installed ones; one with other settings is written as in
            stella,keep_video=0.25,backbone.visible_of=kept.
        sizes: Sizes of CAV-MAE: tiny on the rendered stream as it is, small and base on clips of the published shape.
        rounds: Turns of every method, one after the other.
        batch_size: Current clips of a step; null for what suits size and device.
        device: auto, cpu, cuda or cuda:N.
        seed: Random seed of weights and draws.
        workers: Loader processes of each method.
        cpu_time: Seconds of processor time instead of seconds on the wall, for a machine that others use, too.
        sets: Settings for all methods, as in learner.precision=bf16.
    """

    strategies: list[str] = field(default_factory=lambda: ["all"])
    sizes: list[Literal["tiny", "small", "base"]] = field(default_factory=lambda: ["tiny"])
    rounds: PositiveInt = 5
    batch_size: PositiveInt | None = None
    device: str = "auto"
    seed: Seed = 0
    workers: NonNegativeInt = 0
    cpu_time: bool = False
    sets: list[str] = field(default_factory=list)

    def measure(self) -> dict[str, Any]:
        """All sizes: what was asked, on which machine and with which versions, what was found; ready for JSON."""
        try:
            device = torch.device(find_device(self.device))
        except UserError as error:
            raise UserError(f"device: {error}") from None
        installed = sorted(cls.name for _, cls in registry().offers("strategies"))
        names = [name for given in self.strategies for name in (installed if given == "all" else [given])]
        for name in names:
            read_method(name, self.sets)  # whatever is wrong is said before anything is measured
        return {
            "settings": self.settings() | {"strategies": names},
            **started(),
            "machine": machine(device),
            "sizes": {size: self._measure_size(size, names, device) for size in self.sizes},
        }

    def _measure_size(self, size: str, names: Sequence[str], device: torch.device) -> dict[str, Any]:
        batch_size = self.batch_size or BATCH_SIZES[device.type][size]
        setting = Setting(size, batch_size, device, self)
        clock, speeds = clock_of(device, self.cpu_time), []
        methods = {}
        for name in shown(names, len(names), f"{size}: counting"):
            methods[name] = setting.method(name)
        turns = [(turn, name) for turn in range(self.rounds) for name in names]
        for _, name in shown(turns, len(turns), f"{size}: measuring"):
            if name == names[0]:
                speeds.append(matrix_speed(device, setting.dtype, clock))
            methods[name].turn(clock)
        return {
            "batch_size": batch_size,
            "backbone": setting.backbone.settings(),
            "weights_bytes": sum(p.numel() * p.element_size() for p in setting.backbone.parameters()),
            "matrix_multiply_adds_per_second": speeds,
            "methods": {name: method.told() for name, method in methods.items()},
        }


class Setting:
    """What all methods of a size share: clips, device, the backbone's weights and the optimizer's state of them.

    So that all of them fit into memory at once; ``base`` takes 0.7 GB of weights, and twice that of Adam's moments.
    """

    def __init__(self, size: str, batch_size: int, device: torch.device, bench: TrainingBench):
        self.size, self.batch_size, self.device, self.bench = size, batch_size, device, bench
        shape = SHAPES[size]
        scenario: Scenario = build(registry().find("scenarios", "synthetic"), dict(shape), "scenario")
        self.shape, self.experience = scenario.shape._asdict(), scenario.benchmark().train_stream[0]
        self.states: dict[Any, Any] = {}
        common = read_settings(bench.sets)
        self.backbone = self._built(common["backbone"])
        plain = Stages(self._learner(self.backbone, Strategy(), common["learner"]))
        plain.start(self.experience)  # the optimizer's state comes with its first step
        self.dtype = HALF.get(plain.learner.precision, torch.float32)

    def method(self, name: str) -> Measured:
        """A method, counted and ready to be measured; its replay buffer is full."""
        told = read_method(name, self.bench.sets)
        self.backbone.zero_grad()
        peaks = OnDevice(self.device) if self.device.type == "cuda" else OnHost()
        with peaks.recording():
            backbone = self.backbone
            if told["backbone"] != read_settings(self.bench.sets)["backbone"]:
                backbone = share_weights(self._built(told["backbone"]), self.backbone)
            strategy = self._strategy(told["strategy"])
            stages = Stages(self._learner(backbone, strategy, told["learner"]))
            stages.start(self.experience)
            for memory in stages.memories():
                fill(memory)
            stages.advance()
            with stages.watched(peaks):
                stages.advance()
        replay = sum(memory.full_bytes for memory in stages.memories())
        with counted(stages.learner) as passes:
            work, foreign = multiply_adds(stages)
        return Measured(
            stages=stages,
            settings={"strategy": {"name": strategy.name, **strategy.settings()}, "backbone": told["backbone"]},
            clips=self.batch_size,
            batch=len(stages.learner.batch),
            passes=passes,
            multiply_adds=work,
            not_counted=foreign,
            peak_bytes={stage: peak - replay for stage, peak in peaks.by_stage.items()},
            replay_bytes=replay,
        )

    def _built(self, settings: Mapping[str, Any]) -> Backbone:
        torch.manual_seed(self.bench.seed)
        values = {"size": self.size, **self.shape} | {key: v for key, v in settings.items() if key != "name"}
        return build(registry().find("backbones", settings["name"]), values, "backbone").to(self.device)

    def _strategy(self, settings: Mapping[str, Any]) -> Strategy:
        cls = registry().find("strategies", settings["name"])
        own: dict[str, Any] = {key: value for key, value in settings.items() if key != "name"}
        if issubclass(cls, Rehearsal):
            own = merged({"memory": {"capacity": ROOM * self.batch_size}}, own)
        return build(cls, own, "strategy")

    def _learner(self, backbone: Backbone, strategy: Strategy, settings: Mapping[str, Any]) -> Learner:
        learner = Learner(
            backbone=backbone,
            strategy=strategy,
            evaluator=quiet_evaluator(LossTerms(every=1)),
            device=self.device,
            seed=self.bench.seed,
            **{"batch_size": self.batch_size, "epochs": 1_000_000, "workers": self.bench.workers, **settings},
        )
        share_state(learner.optimizer, backbone, self.states)
        return learner


@dataclass(kw_only=True)
class Measured:
    """What was counted of a method's step, and what its turns took."""

    stages: Stages
    settings: Mapping[str, Any]
    clips: int
    batch: int
    passes: Mapping[str, list[int]]
    multiply_adds: Mapping[str, int]
    not_counted: Sequence[str]
    peak_bytes: Mapping[str, int]
    replay_bytes: int
    seconds: list[float] = field(default_factory=list)
    split: list[Mapping[str, float]] = field(default_factory=list)
    batches: int = 0

    def turn(self, clock: Callable[[], float]) -> None:
        """Measure once more. A device is only waited for between stages in a step that is not the one measured."""
        if not self.batches:
            begun = clock()
            self.stages.advance()
            self.batches = max(1, math.ceil(LEAST / max(clock() - begun, 1e-9)))
        spent = Spent(clock)
        if self.stages.learner.device.type == "cuda":
            begun = clock()
            self.stages.advance(self.batches)
            self.seconds.append((clock() - begun) / self.batches)
        with self.stages.watched(spent):
            self.stages.advance(self.batches)
        self.split.append({stage: seconds / self.batches for stage, seconds in spent.by_stage.items()})
        if len(self.seconds) < len(self.split):
            self.seconds.append(spent.total / self.batches)

    def told(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {key: value for key, value in vars(self).items() if key not in ("stages", "batches")}


def read_settings(sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings of all methods by section, from assignments such as ``learner.precision=bf16``."""
    tree = with_sets({"strategy": {}, "backbone": {"name": "cav-mae"}, "learner": {}}, sets)
    if further := [key for key in tree if key not in SECTIONS]:
        raise UserError(f"--set {further[0]}: must begin with {', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}")
    return tree


def read_method(text: str, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The same with a method's own, from ``name,key=value,...``; a key without a section is one of the strategy's."""
    name, *own = text.split(",")
    registry().find("strategies", name)
    full = [part if part.split(".")[0] in SECTIONS else f"strategy.{part}" for part in own]
    tree = read_settings([*sets, *full])
    return {**tree, "strategy": {**tree["strategy"], "name": name}}


def share_weights(backbone: Backbone, of: Backbone) -> Backbone:
    """``backbone`` with the parameters of another one, wherever both have one of that name and shape."""
    others = dict(of.named_parameters())
    for prefix, module in backbone.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            other = others.get(f"{prefix}.{name}" if prefix else name)
            if other is not None and other.shape == parameter.shape:
                setattr(module, name, other)
    return backbone


def share_state(optimizer: Optimizer, backbone: Backbone, states: dict[Any, Any]) -> None:
    """Let the optimizer keep its state of the backbone's parameters in ``states``, which others use, too."""
    for parameter in backbone.parameters():
        optimizer.state[parameter] = states.setdefault(parameter, optimizer.state[parameter])


def fill(memory: Memory) -> None:
    """Offer to a replay buffer what it holds until there is no room any more."""
    held = 0
    while len(memory) > held:
        held = len(memory)
        past = memory.read(torch.arange(held))
        memory.add(past.clip, **past.extra)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on, besides versions."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def processor() -> str:
    """The processor, by its own name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
