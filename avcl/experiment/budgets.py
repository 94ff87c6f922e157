"""What each method of a sweep may spend: equal steps, equal bytes of replay, or equal forward passes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from avcl.backbones.protocol import Backbone
from avcl.config.build import method_settings
from avcl.errors import UserError
from avcl.experiment.run import Run
from avcl.experiment.sweep import Job, replaced
from avcl.memory import Memory
from avcl.report.sheet import Cell, Sheet
from avcl.training.learner import Learner

Budget = Literal["steps", "bytes", "passes"]

MEANING = {
    "steps": "steps, capacity and epochs as the file says",
    "bytes": "as many clips in each replay buffer as fit, with all that is stored beside them, into the bytes of the "
    "whole float32 clips of the first method's memory.capacity",
    "passes": "epochs scaled to the first method's clip passes: clips through the backbone, current or replayed, with "
    "or without gradient, however many of their patches are seen",
}
"""What is equal, in words."""

LONGEST = 20
"""Steps after which a method whose cost still changes is taken as it is."""

PASSES = ("forward", "embed", "encode", "tokens")


@dataclass(frozen=True)
class Cost:
    """What a method takes, measured: ``clip_passes`` of the whole run, ``buffer_bytes`` of the full replay buffer."""

    epochs: int
    clip_passes: int
    buffer_clips: int
    buffer_bytes: int
    whole_clip_bytes: int


def under(budget: Budget, jobs: Sequence[Job]) -> tuple[list[Job], dict[str, Any]]:
    """The runs as they are under a budget, and what it made of each method, for ``sweep.json``.

    Costs are measured on the first steps of each method, on the first seed.
    """
    if budget == "steps":
        return list(jobs), {"kind": budget, "meaning": MEANING[budget]}
    spent: dict[str, Cost] = {}
    changes: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if job.variant not in spent:
            cost = measured(job.raw)
            change = _passes(job, jobs, cost, spent) if budget == "passes" else _bytes(job, jobs, cost)
            changes[job.variant] = change
            spent[job.variant] = measured(replaced(job, change).raw) if change else cost
    note = {"kind": budget, "meaning": MEANING[budget], "methods": {name: asdict(cost) for name, cost in spent.items()}}
    return [replaced(job, changes[job.variant]) for job in jobs], note


def table(made: Mapping[str, Mapping[str, int]]) -> Sheet:
    """What a budget made of each method, a row each."""
    names = {
        "epochs": "epochs",
        "clip_passes": "clip passes",
        "buffer_clips": "clips in the replay buffer",
        "buffer_bytes": "its bytes",
    }
    rows = [(method, [Cell(text=f"{cost[name]:,}") for name in names]) for method, cost in made.items()]
    return Sheet("method", list(names.values()), {"": rows})


def measured(raw: Mapping[str, Any]) -> Cost:
    """What a run costs, from its first steps: as many as it takes until two in a row take as many passes."""
    run = Run.from_config(raw)
    learner = run.learner()
    passes: list[int] = []
    plain = Memory(capacity=1)
    plain.open(torch.Generator())

    def after_batch(learner: Learner) -> None:
        plain.add(learner.current[:1])
        passes.append(counter.clips)
        counter.clips = 0
        if passes[-2:-1] == passes[-1:] or len(passes) == LONGEST:
            learner.stop_training()

    learner.between_batches = after_batch
    with counted(learner.backbone) as counter:
        learner.train(run.benchmark.train_stream[0])
    memories = [memory for part in learner.strategies if isinstance(memory := getattr(part, "memory", None), Memory)]
    clips = [len(experience.dataset) for experience in run.benchmark.train_stream]
    return Cost(
        epochs=learner.train_epochs,
        clip_passes=passes[-1] * sum(map(learner.batches_of, clips)) * learner.train_epochs,
        buffer_clips=sum(memory.state_dict()["slots"] for memory in memories),
        buffer_bytes=sum(part.full_bytes() for part in learner.strategies),
        whole_clip_bytes=plain.full_bytes,
    )


class Counter:
    """``clips`` that went through a backbone."""

    clips = 0


@contextlib.contextmanager
def counted(backbone: Backbone) -> Iterator[Counter]:
    """Count the clips that go through backbones of this kind, teachers and copies too, each pass once."""
    counter, depth, cls = Counter(), 0, type(backbone)
    own = {name: cls.__dict__.get(name) for name in PASSES}

    def counting(inner: Any) -> Any:
        def call(self: Backbone, clip: Any, *args: Any, **more: Any) -> Any:
            nonlocal depth
            counter.clips += 0 if depth else len(clip)
            depth += 1
            try:
                return inner(self, clip, *args, **more)
            finally:
                depth -= 1

        return call

    for name in PASSES:
        setattr(cls, name, counting(getattr(cls, name)))
    try:
        yield counter
    finally:
        for name, function in own.items():
            if function is None:
                delattr(cls, name)
            else:
                setattr(cls, name, function)


def _passes(job: Job, jobs: Sequence[Job], cost: Cost, spent: Mapping[str, Cost]) -> dict[str, Any]:
    """The number of epochs that comes nearest to the clip passes of the first method."""
    wanted = next((spent[first.variant] for first in jobs if _alike(first, job) and first.variant in spent), cost)
    epochs = max(1, round(cost.epochs * wanted.clip_passes / cost.clip_passes))
    return {} if epochs == cost.epochs else {"learner.epochs": epochs}


def _bytes(job: Job, jobs: Sequence[Job], cost: Cost) -> dict[str, Any]:
    """The bytes of the whole clips that the first method's capacity counts."""
    memories = (_memory(first) for first in jobs if _alike(first, job))
    memory = next(filter(None, memories), {})
    if not memory or not _memory(job):
        return {}
    size = memory["budget_bytes"] or memory["capacity"] * cost.whole_clip_bytes
    return {"strategy.memory.budget_bytes": size}


def _memory(job: Job) -> Mapping[str, Any]:
    """The settings of its replay buffer; empty without one."""
    strategy = method_settings(job.raw)["strategy"]
    if isinstance(strategy, list):
        raise UserError("--budget bytes: needs one strategy a run, not several that run together; name --methods")
    return strategy.get("memory") or {}


def _alike(first: Job, job: Job) -> bool:
    """Whether what is varied for both has the same values."""
    return all(job.varied.get(key, value) == value for key, value in first.varied.items())
