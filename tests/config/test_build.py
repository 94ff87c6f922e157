"""A configuration becomes the parts of a run; all of its mistakes are told at once, each with its full key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from avcl import Backbone, Scenario, SettingsError, Shape, Strategy
from avcl.backbones.weights import save_weights
from avcl.config import build as config
from avcl.errors import PluginError, UserError
from avcl.registry import Plugin, Registry
from avcl.settings import Component, Count, Fraction


@dataclass(kw_only=True)
class Drawn(Scenario):
    name = "drawn"

    frames: Count = 2
    side: Count = 32
    root: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.root:
            raise UserError(f"{self.root} holds no task")

    @property
    def shape(self) -> Shape:
        return Shape(self.frames, self.side, self.side, 64, 16)

    @property
    def task_names(self) -> tuple[str, ...]:
        return ("one", "two")


@dataclass(kw_only=True)
class Other(Drawn):
    name = "synthetic"


@dataclass(kw_only=True, eq=False)
class Net(Backbone):
    """Knows some of the shape, requires one part of it, and takes its width from its size."""

    name = "net"

    size: Any = "small"
    frames: Count
    height: Count = 224
    width: Count = 224
    dim: Count = None  # type: ignore[assignment]
    heads: Count = 2

    def __post_init__(self) -> None:
        if self.dim is None:
            self.dim = {"small": 4, "large": 8}[self.size]
        super().__post_init__()
        self.layer = nn.Linear(self.dim, self.dim)

    def mistakes(self):
        if self.dim % self.heads:
            yield f"heads: {self.heads} does not divide dim = {self.dim}"


@dataclass(kw_only=True, eq=False)
class Plain(Backbone):
    name = "cav-mae"

    dim: Count = 4


@dataclass(kw_only=True, eq=False)
class Store(Component):
    capacity: Count = 5


@dataclass(kw_only=True)
class Replay(Strategy):
    name = "replay"

    alpha: Fraction = 0.5
    store: Store = field(default_factory=Store)


@dataclass(kw_only=True)
class Nothing(Strategy):
    name = "finetune"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Only what this file defines is installed."""
    found = Registry([])
    offers = {"scenarios": (Drawn, Other), "backbones": (Net, Plain), "strategies": (Replay, Nothing)}
    found.plugins = [Plugin("here", "tests", "tests 1", offers=offers)]
    monkeypatch.setattr(config, "registry", lambda: found)
    return found


RAW: dict[str, Any] = {"scenario": "drawn", "backbone": "net", "strategy": "replay", "device": "cpu"}


def mistakes(**raw: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        config.parts(RAW | raw)
    return caught.value.mistakes


def test_nothing_given_is_the_default_run() -> None:
    parts = config.parts({})
    assert [parts["scenario"].name, parts["backbone"].name] == ["synthetic", "cav-mae"]
    assert [part.name for part in parts["strategies"]] == ["finetune"]
    assert (parts["seed"], parts["folder"], parts["weights"]) == (0, Path("runs/finetune-synthetic"), None)
    assert parts["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert parts["settings"]["device"] == "auto"
    assert config.parts({"seed": None, "learner": None, "strategy": None})["settings"] == parts["settings"]


def test_sections_become_objects() -> None:
    parts = config.parts(
        {
            "seed": 3,
            "device": "cpu",
            "out": "somewhere",
            "scenario": {"name": "drawn", "side": 48},
            "backbone": {"name": "net", "size": "large"},
            "strategy": [{"name": "replay", "alpha": "1e-1", "store": {"capacity": 9}}, "finetune"],
            "learner": {"lr": "1e-3", "betas": [0.9, 0.99]},
        }
    )
    assert isinstance(parts["scenario"], Drawn)
    assert isinstance(parts["backbone"], Net)
    replay, nothing = parts["strategies"]
    assert (replay.alpha, replay.store.capacity, type(nothing)) == (0.1, 9, Nothing)
    assert parts["learner"] == {"lr": 1e-3, "betas": (0.9, 0.99)}
    assert (parts["seed"], parts["device"], parts["folder"]) == (3, "cpu", Path("somewhere"))


def test_the_scenario_gives_the_backbone_its_shape() -> None:
    backbone = config.parts(RAW | {"scenario": {"name": "drawn", "side": 48, "frames": 3}})["backbone"]
    assert (backbone.frames, backbone.height, backbone.width) == (3, 48, 48)
    same = RAW | {"backbone": {"name": "net", "frames": 2, "height": 32}}
    assert config.parts(same)["backbone"].height == 32


def test_a_shape_that_contradicts_the_scenario_is_a_mistake() -> None:
    assert mistakes(backbone={"name": "net", "height": 64, "heads": 3}) == [
        "backbone.height: 64 is not allowed: the clips of 'drawn' have 32; leave it out",
        "backbone.heads: 3 does not divide dim = 4",
    ]


def test_the_backbone_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = config.parts(RAW | {"seed": 5})["backbone"].layer.weight
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(7)
    assert torch.equal(config.parts(RAW | {"seed": 5})["backbone"].layer.weight, one)
    assert not torch.equal(config.parts(RAW | {"seed": 6})["backbone"].layer.weight, one)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


def test_all_mistakes_of_all_sections_are_told_at_once() -> None:
    assert mistakes(
        seed=-1,
        devise="cpu",
        device="tpu",
        weights="nowhere.safetensors",
        scenario={"name": "drawn", "sides": 3, "frames": 0},
        backbone={"name": "net", "heads": "x", "height": "tall"},
        strategy=[{"name": "replay", "alpha": 2, "store": {"capacity": 0}}, "replai", {"name": 3}, 4],
        learner={"lr": "fast", "epoch": 3, "seed": 1},
    ) == [
        "devise: unknown setting; did you mean 'device'?",
        "seed: -1 is not allowed: input should be greater than or equal to 0",
        "device: 'tpu' is not allowed: input should be auto, cpu, cuda or cuda:N",
        "scenario.sides: unknown setting; did you mean 'side'?",
        "scenario.frames: 0 is not allowed: input should be greater than 0",
        "backbone.heads: 'x' is not allowed: input should be a valid integer",
        "weights: 'nowhere.safetensors' is not allowed: no such file; give null, or a file that "
        "`avcl pretrain` or `avcl weights import` wrote",
        "strategy.0.store.capacity: 0 is not allowed: input should be greater than 0",
        "strategy.0.alpha: 2 is not allowed: input should be less than or equal to 1",
        "strategy.1: unknown strategy 'replai'; did you mean 'replay'?",
        "strategy.2.name: 3 is not allowed: a name that `avcl list` shows is needed",
        "strategy.3: 4 is not allowed: a name or a mapping of settings is needed",
        "learner.epoch: unknown setting; did you mean 'epochs'?",
        "learner.seed: unknown setting; allowed: accumulate, batch_size, betas, clip_norm, drop_last, epochs, "
        "eval_batch_size, lr, max_bad_share, optimizer, precision, warmup, weight_decay, workers",
        "learner.lr: 'fast' is not allowed: input should be a valid number",
    ]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (
            {"strategy": {"name": "replay", "alpha": "x"}},
            "strategy.alpha: 'x' is not allowed: input should be a valid number",
        ),
        ({"strategy": []}, "strategy: [] is not allowed: a name or a mapping of settings is needed"),
        ({"strategy": {"name": "finetune", "alpha": 1}}, "strategy.alpha: unknown setting"),
        ({"learner": 3}, "learner: 3 is not allowed: a mapping of settings is needed"),
        ({"learner": {"betas": [0.9, 1]}}, "learner.betas.1: 1 is not allowed: input should be less than 1"),
        ({"out": 3}, "out: 3 is not allowed: input should be a path"),
        ({"seed": True}, "seed: True is not allowed: input should be a number, not true or false"),
        ({"scenario": {"name": "drawn", "root": "videos"}}, "scenario: videos holds no task"),
        (
            {"weights": "bundled"},
            "weights: 'bundled' is not allowed: scenario 'drawn' brings none; give null, or a file",
        ),
        (
            {"device": "cuda:99"},
            f"device: 'cuda:99' is not allowed: there are {torch.cuda.device_count()} CUDA devices",
        ),
        ({3: 4}, "3: unknown setting; allowed: backbone, device, learner, out, scenario, seed, strategy, weights"),
    ],
)
def test_a_mistake_is_one_line_with_its_full_key(raw: dict[str, Any], line: str) -> None:
    (told,) = mistakes(**raw) if all(isinstance(key, str) for key in raw) else _mistakes_of(RAW | raw)
    assert told.startswith(line)


def _mistakes_of(raw: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        config.parts(raw)
    return caught.value.mistakes


def test_settings_spell_out_every_default_and_describe_the_same_run(tmp_path: Path) -> None:
    raw = RAW | {"strategy": ["finetune", {"name": "replay", "alpha": 0.25}], "learner": {"lr": 0.5}, "seed": 4}
    settings = config.parts(raw)["settings"]
    assert settings["backbone"] == {
        "name": "net",
        "size": "small",
        "frames": 2,
        "height": 32,
        "width": 32,
        "dim": 4,
        "heads": 2,
    }
    assert settings["strategy"][1] == {"name": "replay", "alpha": 0.25, "store": {"capacity": 5}}
    assert (settings["learner"]["lr"], settings["learner"]["betas"]) == (0.5, [0.95, 0.999])
    assert (settings["out"], settings["seed"]) == ("runs/finetune+replay-drawn", 4)
    path = tmp_path / "resolved.yaml"
    path.write_text(config.dump(settings))
    again = config.parts(config.load(path))
    assert again["settings"] == settings
    assert torch.equal(again["backbone"].layer.weight, config.parts(raw)["backbone"].layer.weight)


def test_weights_are_read(tmp_path: Path) -> None:
    backbone = config.parts(RAW | {"seed": 9})["backbone"]
    save_weights(tmp_path / "w.safetensors", backbone)
    weights = config.parts(RAW | {"weights": str(tmp_path / "w.safetensors")})["weights"]
    assert torch.equal(weights.states["backbone"]["layer.weight"], backbone.layer.weight)


def test_bundled_weights_lie_beside_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    save_weights(tmp_path / "weights" / "drawn.safetensors", config.parts(RAW)["backbone"])
    monkeypatch.setattr("inspect.getfile", lambda cls: str(tmp_path / "scenario.py"))
    assert config.parts(RAW | {"weights": "bundled"})["weights"].name == "net"


def test_plugins_that_cannot_be_looked_for_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Registry:
        raise PluginError("avcl has no plugins")

    monkeypatch.setattr(config, "registry", nowhere)
    with pytest.raises(PluginError, match=r"^avcl has no plugins$"):
        config.parts({"seed": -1})
