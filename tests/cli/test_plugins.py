"""What `avcl list` and `avcl show` print: whole and plain, with help for every setting."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType
from typing import Literal

import pytest
from pydantic import PositiveInt

import avcl.registry
from avcl import Component, Strategy
from avcl.cli.plugins import entries, settings_of, show_all, show_one
from avcl.errors import UserError
from avcl.registry import Plugin, Registry
from avcl.settings import Fraction, descriptions, fields
from avcl.utils.console import Terminal


@dataclass(kw_only=True, eq=False)
class Store(Component):
    """Holds.

    Args:
        capacity: How many.
    """

    capacity: PositiveInt = 5


@dataclass(kw_only=True)
class Replay(Strategy):
    """Replays [a lot] of ``clips`` :smile: from a memory whose name is longer than a terminal is wide.

    Args:
        alpha: How
            much.
    """

    name = "replay"

    size: PositiveInt
    alpha: Fraction = 0.5
    mode: Literal["a", "b"] = "a"
    betas: tuple[float, float] = (0.9, 0.99)
    limit: PositiveInt | None = None
    derived: PositiveInt = None  # type: ignore[assignment]
    store: Store = field(default_factory=Store)


@dataclass(kw_only=True)
class Bare(Strategy):
    name = "bare"


@dataclass(kw_only=True)
class Twin(Strategy):
    """The same name."""

    name = "bare"


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    paper = ModuleType("paper", "Replay: of a paper (arXiv 0000.00000).\n\nHow we differ: nothing.")
    vars(paper).update(PositiveInt=PositiveInt, Fraction=Fraction, Literal=Literal, Store=Store)
    monkeypatch.setitem(sys.modules, "paper", paper)
    for cls in (Replay, Bare, Twin):
        monkeypatch.setattr(cls, "__module__", "paper")
    found = Registry([])
    found.plugins = [
        Plugin("a", "paper", "tests 1", hooks=("strategies", "loggers"), offers={"strategies": (Replay, Bare)}),
        Plugin("b", "other.module", "tests 2", error="ImportError: " + "a long reason, " * 12 + "and its end"),
    ]
    return found


def test_the_list_is_plain_and_whole_when_it_is_no_terminal(registry, capsys):
    show_all(registry)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    sections = [line for line in lines if line.startswith("section ")]
    names = [line.split()[1] for line in sections]
    assert names == ["learner", "memory", "run", "checkpoint", "early-stopping", "lr-schedule"]
    assert lines == [
        "kind name what it is plugin distribution",
        "strategy bare Replay: of a paper (arXiv 0000.00000). paper tests 1",
        "strategy replay Replays [a lot] of ``clips`` :smile: from a memory whose name is longer than a terminal is "
        "wide. paper tests 1",
        "loggers a Replay: of a paper (arXiv 0000.00000). paper tests 1",
        *sections,
        "",
        "broken plugin distribution error",
        "other.module tests 2 ImportError: " + "a long reason, " * 12 + "and its end",
    ]


def test_the_list_marks_two_of_one_name(registry, capsys):
    registry.plugins = [registry.plugins[0], Plugin("c", "twin", "tests 3", offers={"strategies": (Twin,)})]
    show_all(registry)
    assert capsys.readouterr().out.splitlines()[-1].strip() == (
        "strategy 'bare' is offered twice: by paper (tests 1) and by twin (tests 3); uninstall one"
    )


def test_on_a_terminal_long_cells_are_folded_never_cut(registry, monkeypatch):
    narrow = Terminal(width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("avcl.utils.console.Terminal", lambda: narrow)
    with narrow.capture() as captured:
        show_all(registry)
    said = captured.get()
    assert "…" not in said
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "is wide." in " ".join(said.split())
    assert "and its end" in said
    with narrow.capture() as captured:
        show_one(registry, "memory")
    assert re.search(r"^dtype +float64 \| +float32 +Precision", captured.get(), re.MULTILINE)


def test_show_tells_all_about_a_name(registry, capsys):
    show_one(registry, "replay")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "strategy replay: paper.Replay, from paper (tests 1)",
        "",
        "Replay: of a paper (arXiv 0000.00000).",
        "",
        "How we differ: nothing.",
        "",
        "Replays [a lot] of ``clips`` :smile: from a memory whose name is longer than a terminal is wide.",
        "",
        "setting type default help",
        "size int > 0 required -",
        "alpha float >= 0, <= 1 0.5 How much.",
        "mode a | b a -",
        "betas [float, float] [0.9, 0.99] -",
        "limit int > 0 | null null -",
        "derived int > 0 from other settings -",
        "store.capacity int > 0 5 How many.",
        "",
    ]


def test_show_needs_neither_settings_nor_a_class_nor_one_kind(registry, capsys):
    registry.plugins.append(Plugin("bare", "paper", "tests 4", hooks=("metrics",)))
    show_one(registry, "bare")
    strategy, _, metrics = capsys.readouterr().out.partition("It has no settings.")
    assert strategy.startswith("strategy bare: paper.Bare, from paper (tests 1)\n\nReplay: of a paper")
    assert metrics.strip().startswith("metrics bare: paper, from paper (tests 4)\n\nReplay: of a paper")


def test_metrics_and_loggers_that_a_run_file_picks_by_name_are_shown(capsys):
    show_one(avcl.registry.registry(), "wandb")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("loggers wandb: avcl.experiment.loggers.WeightsAndBiases, from avcl.experiment.loggers")
    assert "project str avcl Project of the run." in lines


def test_every_setting_of_whatever_is_installed_has_help():
    found = [entry for entry in entries(avcl.registry.registry()) if entry.plugin.distribution.startswith("avcl ")]
    makers = {entry.name: entry.maker for entry in found if entry.maker}
    told = {(name, key): text for name, maker in makers.items() for key, _, _, text in settings_of(maker)}
    some = {"learner": "lr", "memory": "capacity", "run": "seed", "er": "memory.capacity", "stella-plus": "replay"}
    assert set(some.items()) <= set(told)
    assert {key: text for key, text in told.items() if not re.fullmatch(r"[^a-z-].*\.", text)} == {}
    points = {point.name for point in entry_points(group="avcl") if point.dist and point.dist.name == "avcl"}
    picked = {entry.name for entry in found if entry.kind in ("metrics", "loggers") and entry.maker}
    assert points == {entry.name for entry in found if entry.kind != "section"} - picked, "what completion offers"
    gone = {(name, key) for name, maker in makers.items() for key in descriptions(maker).keys() - set(fields(maker))}
    assert gone == set(), "help for settings that do not exist"


def test_show_suggests_and_tells_of_broken_plugins(registry):
    with pytest.raises(UserError, match=r"^unknown name 'replya'; did you mean 'replay'\?; broken plugins: other\.mod"):
        show_one(registry, "replya")
