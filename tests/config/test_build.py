"""A configuration becomes the parts of a run; all of its mistakes are told at once, each with its full key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import PositiveInt
from torch import nn

from avcl import Backbone, Scenario, SettingsError, Shape, Strategy
from avcl.backbones.weights import save_weights
from avcl.config import build as config
from avcl.config.files import dump_config, read_config
from avcl.errors import PluginError, UserError
from avcl.registry import Plugin, Registry
from avcl.settings import Component, Fraction


@dataclass(kw_only=True)
class Drawn(Scenario):
    name = "drawn"

    frames: PositiveInt = 2
    side: PositiveInt = 32
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
    frames: PositiveInt
    height: PositiveInt = 224
    width: PositiveInt = 224
    dim: PositiveInt = None  # type: ignore[assignment]
    heads: PositiveInt = 2

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

    dim: PositiveInt = 4


@dataclass(kw_only=True, eq=False)
class Store(Component):
    capacity: PositiveInt = 5


@dataclass(kw_only=True)
class Replay(Strategy):
    name = "replay"

    alpha: Fraction = 0.5
    store: Store = field(default_factory=Store)


@dataclass(kw_only=True)
class Nothing(Strategy):
    name = "finetune"


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Only what this file defines is installed."""
    found = Registry([])
    offers = {"scenarios": (Drawn, Other), "backbones": (Net, Plain), "strategies": (Replay, Nothing)}
    found.plugins = [Plugin("here", "tests", "tests 1", offers=offers)]
    monkeypatch.setattr(config, "registry", lambda: found)
    return found


RAW: dict[str, Any] = {"scenario": "drawn", "backbone": "net", "strategy": "replay", "device": "cpu"}


def mistakes(raw):
    with pytest.raises(SettingsError) as caught:
        config.components_of(RAW | raw)
    return caught.value.mistakes


def test_nothing_given_is_the_default_run():
    parts = config.components_of({})
    assert [parts["scenario"].name, parts["backbone"].name] == ["synthetic", "cav-mae"]
    assert [part.name for part in parts["strategies"]] == ["finetune"]
    assert (parts["seed"], parts["folder"], parts["weights"]) == (0, Path("runs/finetune-synthetic"), None)
    assert parts["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert parts["settings"]["device"] == "auto"
    assert config.components_of({"seed": None, "learner": None, "strategy": None})["settings"] == parts["settings"]


def test_sections_become_objects():
    raw = {
        "scenario": {"name": "drawn", "side": 48},
        "backbone": {"name": "net", "size": "large"},
        "strategy": [{"name": "replay", "alpha": "1e-1", "store": {"capacity": 9}}, "finetune"],
        "learner": {"lr": "1e-3", "betas": [0.9, 0.99]},
    }
    parts = config.components_of({"seed": 3, "device": "cpu", "out": "somewhere", **raw})
    assert isinstance(parts["scenario"], Drawn) and isinstance(parts["backbone"], Net)
    replay, nothing = parts["strategies"]
    assert (replay.alpha, replay.store.capacity, type(nothing)) == (0.1, 9, Nothing)
    assert parts["learner"] == {"lr": 1e-3, "betas": (0.9, 0.99)}
    assert (parts["seed"], parts["device"], parts["folder"]) == (3, "cpu", Path("somewhere"))


def test_the_scenario_gives_the_backbone_its_shape():
    backbone = config.components_of(RAW | {"scenario": {"name": "drawn", "side": 48, "frames": 3}})["backbone"]
    assert (backbone.frames, backbone.height, backbone.width) == (3, 48, 48)
    same = RAW | {"backbone": {"name": "net", "frames": 2, "height": 32}}
    assert config.components_of(same)["backbone"].height == 32
    assert mistakes({"backbone": {"name": "net", "height": 64, "heads": 3}}) == [
        "backbone.height: invalid value 64: must be 32, as in the clips of 'drawn'; leave it out",
        "backbone.heads: 3 does not divide dim = 4",
    ]


def test_the_backbone_is_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    one = config.components_of(RAW | {"seed": 5})["backbone"].layer.weight
    after = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(7)
    assert torch.equal(config.components_of(RAW | {"seed": 5})["backbone"].layer.weight, one)
    assert not torch.equal(config.components_of(RAW | {"seed": 6})["backbone"].layer.weight, one)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


def test_all_mistakes_of_all_sections_are_told_at_once():
    raw = {
        "seed": -1,
        "devise": "cpu",
        "device": "tpu",
        "weights": "nowhere.safetensors",
        "scenario": {"name": "drawn", "sides": 3, "frames": 0},
        "backbone": {"name": "net", "heads": "x", "height": "tall"},
        "strategy": [{"name": "replay", "alpha": 2, "store": {"capacity": 0}}, "replai", {"name": 3}, 4],
        "learner": {"lr": "fast", "epoch": 3, "seed": 1},
    }
    assert mistakes(raw) == [
        "device: invalid value 'tpu': must be auto, cpu, cuda or cuda:N",
        "seed: invalid value -1: must be greater than or equal to 0",
        "devise: unknown setting; did you mean 'device'?",
        "scenario.frames: invalid value 0: must be greater than 0",
        "scenario.sides: unknown setting; did you mean 'side'?",
        "backbone.heads: invalid value 'x': must be a valid integer",
        "weights: invalid value 'nowhere.safetensors': no such file; must be null, or a file that "
        "`avcl pretrain` or `avcl weights import` wrote",
        "strategy.0.alpha: invalid value 2: must be less than or equal to 1",
        "strategy.0.store.capacity: invalid value 0: must be greater than 0",
        "strategy.1: unknown strategy 'replai'; did you mean 'replay'?",
        "strategy.2.name: invalid value 3: must be a name that `avcl list` shows",
        "strategy.3: invalid value 4: must be a name or a mapping of settings",
        "learner.lr: invalid value 'fast': must be a valid number",
        "learner.epoch: unknown setting; did you mean 'epochs'?",
        "learner.seed: unknown setting; allowed: accumulate, batch_size, betas, clip_norm, drop_last, epochs, "
        "eval_batch_size, loader_timeout, lr, max_bad_share, optimizer, precision, shuffle, warmup, weight_decay, "
        "workers",
    ]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"strategy": []}, "strategy: invalid value []: must be a name or a mapping of settings"),
        ({"strategy": {"name": "finetune", "alpha": 1}}, "strategy.alpha: unknown setting"),
        ({"learner": 3}, "learner: invalid value 3: must be a mapping of settings"),
        ({"learner": {"betas": [0.9, 1]}}, "learner.betas.1: invalid value 1: must be less than 1"),
        ({"out": 3}, "out: invalid value 3: must be a path"),
        ({"scenario": {"name": "drawn", "root": "videos"}}, "scenario: videos holds no task"),
        ({"weights": "bundled"}, "weights: invalid value 'bundled': scenario 'drawn' brings none; must be null, or a"),
        ({"device": "cuda:99"}, "device: invalid value 'cuda:99': must be auto, cpu or one of "),
        ({3: 4}, "3: unknown setting; allowed: backbone, callbacks, checkpoint, device, "),
    ],
)
def test_a_mistake_is_one_line_with_its_full_key(raw, line):
    (told,) = mistakes(raw)
    assert told.startswith(line)


def test_settings_spell_out_every_default_and_describe_the_same_run(tmp_path):
    raw = RAW | {"strategy": ["finetune", {"name": "replay", "alpha": 0.25}], "learner": {"lr": 0.5}, "seed": 4}
    settings = config.components_of(raw)["settings"]
    shape = {"frames": 2, "height": 32, "width": 32}
    assert settings["backbone"] == {"name": "net", "size": "small", **shape, "dim": 4, "heads": 2}
    assert settings["strategy"][1] == {"name": "replay", "alpha": 0.25, "store": {"capacity": 5}}
    assert (settings["learner"]["lr"], settings["learner"]["betas"]) == (0.5, [0.95, 0.999])
    assert (settings["out"], settings["seed"]) == ("runs/finetune+replay-drawn", 4)
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_config(settings))
    again = config.components_of(read_config(path))
    assert again["settings"] == settings
    assert torch.equal(again["backbone"].layer.weight, config.components_of(raw)["backbone"].layer.weight)


def test_weights_are_a_file_or_lie_beside_the_scenario(tmp_path, monkeypatch):
    path = tmp_path / "weights" / "drawn.safetensors"
    path.parent.mkdir()
    backbone = config.components_of(RAW | {"seed": 9})["backbone"]
    save_weights(path, backbone)
    monkeypatch.setattr("inspect.getfile", lambda cls: str(tmp_path / "scenario.py"))
    for source in (str(path), "bundled"):
        weights = config.components_of(RAW | {"weights": source})["weights"]
        assert torch.equal(weights.states["backbone"]["layer.weight"], backbone.layer.weight)


def test_plugins_that_cannot_be_looked_for_are_one_line(monkeypatch):
    def nowhere() -> Registry:
        raise PluginError("avcl has no plugins")

    monkeypatch.setattr(config, "registry", nowhere)
    with pytest.raises(PluginError, match=r"^avcl has no plugins$"):
        config.components_of({"seed": -1})
