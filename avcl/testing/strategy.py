"""The promises of a strategy, checked in seconds on any of them, with pytest or without."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from avcl.compat import BaseSGDPlugin, benchmark_from_datasets
from avcl.errors import PluginError
from avcl.experiment.checkpoint import Checkpoints
from avcl.memory import Memory
from avcl.metrics.selection import whole_clips
from avcl.scenario import Scenario, as_avalanche
from avcl.selection import Selection
from avcl.settings import fields
from avcl.strategy import Rehearsal, Strategy
from avcl.testing.promises import (
    Promise,
    finite,
    global_state,
    keep,
    random_state,
    refuses_invalid_settings,
    require,
    same,
)
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner

Make = Callable[[], Strategy]


def check_strategy(make: type[Strategy] | Make, promises: Sequence[Promise] = (), beside: Make | None = None) -> None:
    """BrokenPromise, which says what was found, at the first of ``promises`` that is broken; all by default.

    ``make`` is a strategy class, or a function that makes a new one every time, with the settings to be
    checked; a class that has a replay buffer gets a small one. Two tasks of random clips are trained by a
    backbone of a few thousand weights. ``beside`` makes another strategy for the same learner, behind it.
    """
    maker = _with_small_memory(make) if isinstance(make, type) else make
    if beside is not None:
        maker = functools.wraps(maker, updated=())(functools.partial(maker))
        maker.beside = beside  # type: ignore[attr-defined]
    keep(Strategy, maker, promises or PROMISES)


def makes_its_state_in_begin(make: Make) -> None:
    """makes its state in begin, of what can be saved"""
    _learner(make).state_dict()


def trains(make: Make) -> None:
    """trains two tasks and logs finite values"""
    learner = _learner(make)
    before, after, part = _weights(learner), _train(learner), learner.strategies[0]
    require(finite(after), "the weights are not finite")
    require(not torch.equal(before, after), "the weights are those of the beginning")
    logged = part.log()
    wrong = {key: value for key, value in logged.items() if not isinstance(value, float) or not math.isfinite(value)}
    require(not wrong, f"log() returned {wrong}; must be finite floats")
    size = part.full_bytes()
    require(isinstance(size, int) and size >= 0, f"full_bytes() returned {size!r}; must be a number of bytes")


def adds_no_state(make: Make) -> None:
    """adds no state after begin and changes no setting"""
    learner = _learner(make)
    part = learner.strategies[0]
    names, values = _public(part), part.settings()
    _train(learner)
    require(_public(part) == names, f"made after begin: {', '.join(sorted(_public(part) ^ names))}")
    changed = [key for key, value in part.settings().items() if value != values[key]]
    require(not changed, f"changed {', '.join(changed)}; keep what changes under another name")


def is_deterministic(make: Make) -> None:
    """deterministic: the same seed gives the same weights; every draw is from learner.generators"""
    found = []
    for seed in (1, 2):
        learner = _learner(make)
        with random_state(seed):
            found.append(_train(learner))
    require(torch.equal(*found), "the same seed gave other weights under another global random state")


def reads_no_labels(make: Make) -> None:
    """reads no labels or task ids, unless it declares needs_boundaries"""
    scenarios = [Noise(clips_per_task=8, shift=shift) for shift in (0, 7)]
    found = _blind(make, lambda learner, number: _train(learner, scenarios[number]), 2)
    require(all(torch.equal(found[0], other) for other in found), "other labels and task ids gave other weights")


def ignores_boundaries(make: Make) -> None:
    """task-free: the same clips, cut into other tasks at other places, give the same weights"""
    clips, cuts = Noise(clips_per_task=16).clips(0, "train"), ((0, 8, 16), (0, 4, 16), (0, 16))

    def train(learner: Learner, number: int) -> Tensor:
        tasks = [as_avalanche(Subset(clips, range(*pair))) for pair in itertools.pairwise(cuts[number])]
        learner.loading.shuffle = False
        learner.train(benchmark_from_datasets(train=tasks).train_stream)
        return _weights(learner)

    found = _blind(make, train, 3)
    require(all(torch.equal(found[0], other) for other in found), "other task boundaries gave other weights")


def _blind(make: Make, train: Callable[[Learner, int], Tensor], times: int) -> list[Tensor]:
    """What each training gave; nothing of a strategy that may see, or that fails for other reasons than asking."""
    found: list[Tensor] = []
    try:
        for number in range(0 if make().needs_boundaries else times):
            with random_state(0):
                found.append(train(_learner(make), number))
    except PluginError as error:
        if isinstance(error.__cause__, AttributeError):  # HiddenError is one
            raise
        return []  # another promise is broken
    return found


def has_no_side_effects(make: Make) -> None:
    """no side effects on weights, gradients, optimizer or random state"""
    _train(_learner(make, accumulate=2, plugins=[_Guard()]))


def selects_without_side_effects(make: Make) -> None:
    """its selection, where it has one, is of patches that are there, by draws from the given generator alone"""
    learner = _learner(make)
    _train(learner)
    part, backbone = learner.strategies[0], learner.backbone
    clip: Any = whole_clips(Noise().clips(0, "eval"), range(3), backbone)[1]
    before, drawn = copy.deepcopy((learner.state_dict(), part.log())), global_state()
    found = [part.selection(backbone, clip, torch.Generator().manual_seed(0)) for _ in range(2)]
    require(same(before, (learner.state_dict(), part.log())), "it changed the strategy, the backbone or a generator")
    require(same(drawn, global_state()), "it drew from a global generator")
    require(same(*[_parts(one) for one in found]), "the same generator gave another selection")
    for kind, choice in found[0]._asdict().items() if found[0] is not None else ():
        count = getattr(backbone.grid, kind)
        shape = tuple(choice.importance.shape)
        require(shape == (3, count), f"the importance of {kind} is {shape}; must be {(3, count)}, one a patch")
        require(not choice.importance.requires_grad, f"the importance of {kind} has a gradient; use torch.no_grad")
        good = bool(((choice.kept >= 0) & (choice.kept < count)).all()) and finite(choice.importance)
        require(good, f"of {kind} it keeps patches that are not there, or its importance is not finite")
        distinct = all(len(set(row)) == len(row) for row in choice.kept.tolist())
        require(distinct, f"of {kind} it keeps a patch twice")


def _parts(selection: Selection | None) -> list[Any]:
    return [vars(choice) for choice in selection or ()]


def trains_on_any_batch(make: Make) -> None:
    """trains on batches of 1 and 2 clips, and on one that a corrupt clip made smaller"""
    for size in (1, 2, 4):
        scenario = Noise(clips_per_task=4, bad=(2,))
        learner = _learner(make, batch_size=size, max_bad_share=0.5)
        require(finite(_train(learner, scenario)), f"with batch_size {size} the weights are not finite")


def trains_with_little_memory(make: Make) -> None:
    """trains with a replay buffer that holds nothing, or less than a batch"""
    for capacity in (0, 2):

        def forgetful(capacity: int = capacity) -> Strategy:
            part = make()
            if isinstance(getattr(part, "memory", None), Memory):
                part.memory = Memory(capacity=capacity)  # type: ignore[attr-defined]
            return part

        require(finite(_train(_learner(forgetful))), f"with memory.capacity {capacity} the weights are not finite")


def trains_beside_another(make: Make) -> None:
    """trains beside another strategy that replays: each reads its own rows of the batch"""
    for order in (1, -1):
        learner = _learner(make, beside=Replay(memory=Memory(capacity=8), replay=3), order=order)
        require(finite(_train(learner)), "the weights are not finite")


def trains_in_half_precision(make: Make) -> None:
    """trains in bfloat16 and float16"""
    for precision in ("bf16", "fp16"):
        weights = _train(_learner(make, precision=precision))
        require(finite(weights), f"with precision {precision} the weights are not finite")


def resumes(make: Make) -> None:
    """resumes identically from a checkpoint after any batch"""
    more: dict[str, Any] = {"accumulate": 2, "warmup": 3}
    whole = _learner(make, **more)
    with tempfile.TemporaryDirectory() as folder:

        def save(learner: Learner) -> None:
            batches = learner.clock.train_iterations
            Checkpoints(Path(folder, str(batches))).save(learner.state_dict(), batches, keep=1)

        whole.between_batches = save
        _train(whole)
        expected = whole.state_dict()
        for path in sorted(Path(folder).iterdir())[:-1]:
            learner = _learner(make, **more)
            learner.load_state_dict(Checkpoints(path).newest())
            _train(learner)
            found = learner.state_dict()
            for key in ("backbone", "strategies", "generators"):
                told = f"stopped after batch {path.name} and resumed, {key} end otherwise; a name with an underscore "
                require(same(found[key], expected[key]), told + "is for what lives for one step")


PROMISES: tuple[Promise, ...] = (
    refuses_invalid_settings,
    makes_its_state_in_begin,
    reads_no_labels,
    ignores_boundaries,
    trains,
    adds_no_state,
    is_deterministic,
    has_no_side_effects,
    selects_without_side_effects,
    trains_on_any_batch,
    trains_with_little_memory,
    trains_beside_another,
    trains_in_half_precision,
    resumes,
)
"""What every strategy keeps."""


@dataclass(kw_only=True)
class Replay(Rehearsal):
    """Experience replay: the strategy beside which others are tried."""

    name = "replay"


class _Guard(BaseSGDPlugin):
    """Compares what belongs to the loop before and after each of a strategy's verbs."""

    def before_training_iteration(self, strategy: Learner, **kwargs: Any) -> None:
        self.waiting = [p.grad.clone() for p in strategy.parameters() if p.grad is not None] if strategy.pending else []
        self._look(strategy)

    def before_forward(self, strategy: Learner, **kwargs: Any) -> None:
        self._compare(strategy, "prepare")
        gradients = [p.grad for p in strategy.parameters() if p.grad is not None]
        require(same(gradients, self.waiting), "prepare changed gradients; take derivatives by torch.autograd.grad")

    def after_forward(self, strategy: Learner, **kwargs: Any) -> None:
        self._look(strategy)

    def before_backward(self, strategy: Learner, **kwargs: Any) -> None:
        self._compare(strategy, "penalty")

    def after_backward(self, strategy: Learner, **kwargs: Any) -> None:
        self._look(strategy)

    def after_update(self, strategy: Learner, **kwargs: Any) -> None:
        self._look(strategy)

    def after_training_iteration(self, strategy: Learner, **kwargs: Any) -> None:
        self._compare(strategy, "observe")

    def _look(self, learner: Learner) -> None:
        self.weights, self.masks = _weights(learner), learner.generators["mask"].get_state()
        self.moments = [v.clone() for state in learner.optimizer.state.values() for v in state.values()]
        self.drawn = global_state()

    def _compare(self, learner: Learner, verb: str) -> None:
        moments = [v for state in learner.optimizer.state.values() for v in state.values()]
        masks = learner.generators["mask"].get_state()
        require(torch.equal(_weights(learner), self.weights), f"{verb} changed weights that the optimizer trains")
        require(same(moments, self.moments), f"{verb} changed the optimizer's state")
        require(torch.equal(masks, self.masks), f'{verb} drew from generators["mask"]; there is "auxiliary"')
        require(same(global_state(), self.drawn), f"{verb} drew from a global generator; there is learner.generators")


def _with_small_memory(cls: type[Strategy]) -> Make:
    setting = fields(cls).get("memory")
    if setting is None or setting.component is not Memory:
        return cls
    return functools.wraps(cls, updated=())(lambda: cls(memory=Memory(capacity=8)))  # type: ignore[call-arg]


def _learner(make: Make, beside: Strategy | None = None, order: int = 1, **settings: Any) -> Learner:
    defaults: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 1e-3}
    pair = getattr(make, "beside", None)
    strategies = [make(), *([beside] if beside else []), *([pair()] if pair else [])][::order]
    return Learner(backbone=small_backbone(), strategy=strategies, **(defaults | settings))


def _train(learner: Learner, scenario: Scenario | None = None) -> Tensor:
    """What is left of the stream; returns all weights."""
    joint = any(part.joint for part in learner.strategies)
    for number, experience in enumerate((scenario or Noise(clips_per_task=8)).benchmark(joint=joint).train_stream):
        if number >= learner.tasks_done:
            learner.train(experience)
    return _weights(learner)


def _weights(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])


def _public(part: Strategy) -> set[str]:
    return {key for key in vars(part) if not key.startswith("_")}
