"""The contract of an evaluation: data, head and score on a trained model, which it leaves as it is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from avcl.backbones.protocol import Backbone
from avcl.errors import UserError
from avcl.registry import blamed
from avcl.scenario import Scenario
from avcl.settings import Component, build
from avcl.strategy import Strategy

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False, kw_only=True)
class Frozen:
    """A trained model, as evaluations see it, and the clips to evaluate it on.

    ``backbone`` on ``device`` · ``strategies``, begun on it; none in a metric · ``modules``: those of strategies whose
    weights are there, by name, such as STELLA's ``matching`` · ``seed`` of heads, orders and augmentation ·
    ``batch_size``: clips of one forward pass · ``workers``: processes that read clips. The last two change no score.
    """

    backbone: Backbone
    scenario: Scenario
    strategies: Sequence[Strategy] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    device: torch.device = CPU
    seed: int = 0
    batch_size: int = 32
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation found.

    ``scores`` by name, shares in percent · ``chance``: of each score that has one what a model that knows nothing
    gets: chance, or the baseline that the evaluation's docstring names · ``clips`` that were scored ·
    ``lower_is_better``: names of scores · ``details``: more for the file, as JSON can hold it (scores per task, ...).
    """

    scores: Mapping[str, float]
    chance: Mapping[str, float] = field(default_factory=dict)
    clips: int
    lower_is_better: frozenset[str] = frozenset()
    details: Mapping[str, Any] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """All of it for ``evaluations.json``."""
        return {
            "scores": dict(self.scores),
            "chance": dict(self.chance),
            "higher_is_better": {name: name not in self.lower_is_better for name in self.scores},
            "clips": self.clips,
            **self.details,
        }


@dataclass(kw_only=True)
class Evaluation(Component):
    """Base of all evaluations: a protocol on a trained model, its settings those of the paper.

    Every setting has a default, so that it can be asked for by its name alone.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings for scenarios by name, in place of the defaults: an embedded stream is not a paper's data set."""

    suits: ClassVar[tuple[str, ...]] = ()
    """Names of scenarios that have what it needs beyond clips; empty where any scenario will do."""

    as_metric: ClassVar[bool] = True
    """Whether a run file can name it among its metrics; False where a metric of that name exists."""

    @classmethod
    def for_scenario(cls, scenario: Scenario, values: Mapping[str, Any] = {}, where: str = "") -> Evaluation:
        """One with the settings ``values``, else those of ``presets``, else the defaults; SettingsError."""
        return build(cls, {**cls.presets.get(scenario.name, {}), **values}, where)

    def evaluate(self, model: Frozen) -> Scores:
        """Score the model, whose weights, training mode and random state stay as they are."""
        raise NotImplementedError

    def unsuited(self, scenario: Scenario, what: str) -> UserError:
        """The error for a scenario that lacks ``what``: which scenarios have it."""
        known = f"; {' and '.join(map(repr, self.suits))} do: name one with --config" if self.suits else ""
        return UserError(f"{self.name}: clips of scenario {scenario.name!r} have no {what}{known}")


@contextlib.contextmanager
def undisturbed(backbone: nn.Module, modules: Sequence[nn.Module] = (), seed: int = 0) -> Iterator[None]:
    """Within this block modules are in evaluation mode, random numbers begin at ``seed``; nothing of it stays.

    Gradients are recorded unless it says otherwise: a loop that evaluates does not.
    """
    device = next((p.device for p in backbone.parameters()), CPU)
    modes = [(part, part.training) for whole in (backbone, *modules) for part in whole.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        for part, _ in modes:
            part.training = False
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode
            random.setstate(python)
            np.random.set_state(numpy)


def evaluated(evaluation: Evaluation, model: Frozen) -> Scores:
    """What ``evaluation`` finds, with nothing disturbed; every score and chance a finite number, else UserError."""
    whole = model.backbone, list(model.modules.values()), model.seed
    with undisturbed(*whole), blamed(evaluation, "evaluate"):
        found = evaluation.evaluate(model)
    for name, value in {**found.chance, **found.scores}.items():
        if not np.isfinite(value):
            raise UserError(f"{evaluation.name}: {name} is {value}; are the weights finite?")
    return found
