"""Stop anywhere, go on as if nothing had happened: everything that training depends on, as tensors and numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avcl.errors import UserError
from avcl.memory import Memory
from avcl.settings import fields
from avcl.strategy import Strategy
from avcl.training.learner import Learner

_CURSOR = ("tasks_done", "batches_done", "steps", "pending")


def capture(learner: Learner) -> dict[str, Any]:
    """The learner's whole state, between two batches; ``restore`` on a learner made alike goes on identically."""
    return {
        "backbone": learner.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "warming": None if learner.warming is None else learner.warming.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "gradients": [p.grad for p in learner.parameters()] if learner.pending else [],
        "generators": {name: g.get_state() for name, g in learner.generators.items()},
        "strategies": [_made_in_begin(part) for part in learner.strategies],
        "clock": {key: value for key, value in vars(learner.clock).items() if isinstance(value, int)},
        "cursor": {key: getattr(learner, key) for key in _CURSOR},
        "bad": dict(learner.bad.reasons),
    }


def restore(learner: Learner, state: Mapping[str, Any]) -> None:
    """Go on from ``state``: what was trained is skipped, the rest follows as if nothing had happened."""
    learner.model.load_state_dict(state["backbone"])
    learner.optimizer.load_state_dict(state["optimizer"])
    if learner.warming is not None:
        learner.warming.load_state_dict(state["warming"])
    learner.scaler.load_state_dict(state["scaler"])
    for name, value in state["generators"].items():
        learner.generators[name].set_state(value)
    for strategy, made in zip(learner.strategies, state["strategies"], strict=True):
        _put_back(strategy, made)
    if state["gradients"]:
        for parameter, gradient in zip(learner.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient
    for part, values in ((learner.clock, state["clock"]), (learner, state["cursor"])):
        for key, value in values.items():
            setattr(part, key, value)
    learner.bad.reasons = dict(state["bad"])


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` aside, flush it, then rename it over ``path``: a reader never sees half of it."""
    aside = path.with_name(path.name + ".writing")
    with open(aside, "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote; tensors, numbers and containers only, nothing is executed."""
    return torch.load(path, map_location="cpu", weights_only=True)


def _made_in_begin(part: Strategy) -> dict[str, Any]:
    """A strategy's modules, memories, tensors and numbers, by attribute."""
    state: dict[str, Any] = {}
    for key, value in vars(part).items():
        if key.startswith("_"):
            continue
        if isinstance(value, nn.Module | Memory):
            state[key] = value.state_dict()
        elif key in fields(type(part)):
            continue
        elif value is None or isinstance(value, Tensor | int | float):
            state[key] = value
        else:
            raise UserError(
                f"{part.name}.{key}: a {type(value).__name__} cannot be saved; keep modules, memories, tensors "
                "or numbers, or begin the name with an underscore if it lives for one step only"
            )
    return state


def _put_back(part: Strategy, state: Mapping[str, Any]) -> None:
    for key, value in state.items():
        held = getattr(part, key, None)
        if isinstance(held, nn.Module | Memory):
            held.load_state_dict(value)
        else:
            setattr(part, key, value)
