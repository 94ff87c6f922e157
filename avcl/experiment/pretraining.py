"""Pre-training before the stream: the backbone, then the strategies' own modules, on classes of no task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from avcl.backbones.weights import save_weights
from avcl.compat import benchmark_from_datasets, quiet_evaluator
from avcl.errors import UserError
from avcl.experiment.loggers import Bar
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.metrics import LossTerms
from avcl.scenario import as_avalanche
from avcl.settings import fields
from avcl.strategy import Rehearsal, Strategy
from avcl.training.learner import Learner
from avcl.utils import distributed


def pretrain(run: Run, path: str | Path, frozen: bool = False) -> None:
    """Train on the scenario's pre-training clips and write the weights to ``path``.

    First the backbone with its own loss, then whatever modules the strategies bring (STELLA's matching
    module) on the frozen backbone, each for ``learner.epochs`` epochs. Nothing is replayed. ``frozen`` leaves
    the backbone as it is, so that the second part can have epochs of its own, or follow imported weights.
    """
    with distributed.joined(run.device) as device:
        run.device = str(device)
        _pretrain(run, Path(path), frozen)


def _pretrain(run: Run, path: Path, frozen: bool) -> None:
    clips = run.scenario.pretraining_clips()
    if clips is None:
        setting = "scenario.pretraining, or " if "pretraining" in fields(type(run.scenario)) else ""
        raise UserError(f"scenario {run.scenario.name!r} has no clips to pre-train on; set {setting}weights to a file")
    if not len(clips):  # type: ignore[arg-type]
        raise UserError(
            f"scenario {run.scenario.name!r}: none of its clips to pre-train on is there; "
            "a store holds them if it was prepared with the same scenario.pretraining"
        )
    stream = benchmark_from_datasets(train=[as_avalanche(clips)]).train_stream
    if not frozen:
        _train(run, stream, [Strategy()], "backbone")
    run.backbone.requires_grad_(False)
    strategies = [copy.deepcopy(part) for part in run.strategies]
    for part in strategies:
        if isinstance(part, Rehearsal):
            part.memory = Memory(capacity=0)
    extra = _trained(run.learner(strategies))
    if frozen and not extra:
        names = " and ".join(repr(part.name) for part in strategies)
        raise UserError(f"strategy {names} brings no module to train beside a frozen backbone; 'stella' does")
    if extra:
        extra = _trained(_train(run, stream, strategies, "modules of the strategies"))
    if distributed.rank() == 0:
        save_weights(path, run.backbone, extra)


def _trained(learner: Learner) -> dict[str, nn.Module]:
    """The strategies' modules that train; a teacher that only follows the backbone has nothing to learn yet."""
    return {name: m for name, m in learner.named_modules() if any(p.requires_grad for p in m.parameters())}


def _train(run: Run, stream: Any, strategies: Sequence[Strategy], what: str) -> Learner:
    bar = Bar([len(stream[0].dataset)], [what])
    shown = (bar,) if distributed.rank() == 0 else ()
    learner = run.learner(strategies, evaluator=quiet_evaluator(LossTerms(), loggers=shown))
    try:
        learner.train(stream)
    finally:
        bar.close()
    return learner
