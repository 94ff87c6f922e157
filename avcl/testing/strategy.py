"""The promises of a strategy, checked in seconds on any of them, with pytest or without."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcl.compat import BaseSGDPlugin
from avcl.errors import SettingsError
from avcl.experiment import checkpoint
from avcl.memory import Memory
from avcl.scenario import Scenario
from avcl.settings import build, fields
from avcl.strategy import Strategy
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner

__all__ = ["PROMISES", "Noise", "check_strategy", "small_backbone"]

Make = Callable[[], Strategy]


def check_strategy(make: type[Strategy] | Make) -> None:
    """AssertionError, which says what was found, at the first of ``PROMISES`` that is broken.

    ``make`` is a strategy class, or a function that makes a new one every time, with the settings to be
    checked; a class that has a memory gets a small one. Two tasks of random clips are trained by a backbone
    of a few thousand weights.
    """
    maker = _with_small_memory(make) if isinstance(make, type) else make
    name = maker().name
    for promise in PROMISES:
        with _kept(name, promise):
            promise(maker)


def trains(make: Make) -> None:
    """trains two tasks and says finite numbers of itself"""
    learner = _learner(make)
    before = _weights(learner)
    after = _train(learner)
    part = learner.strategies[0]
    said = part.log()
    assert bool(torch.isfinite(after).all()), "the weights are not finite"
    assert not torch.equal(before, after), "the weights are those of the beginning"
    wrong = {key: value for key, value in said.items() if not isinstance(value, float) or not math.isfinite(value)}
    assert not wrong, f"log() says {wrong}; floats are needed"
    size = part.full_bytes()
    assert isinstance(size, int) and size >= 0, f"full_bytes() says {size!r}"


def checks_its_settings(make: Make) -> None:
    """refuses bad settings by their names, and says the good ones as a file can hold them"""
    part = make()
    cls, values = type(part), part.settings()
    for key in (*fields(cls), "no_such_setting"):
        try:
            build(cls, {**values, key: object()})
        except SettingsError as error:
            assert any(line.startswith(key) for line in error.mistakes), f"{key} is refused without its name: {error}"
        else:
            raise AssertionError(f"{key} takes anything; annotate it with what it may be")
    assert build(cls, values).settings() == values, f"{values} make a strategy with other settings"


def repeats(make: Make) -> None:
    """does the same twice: every draw is from learner.generators, none from a global generator"""
    one, two = _learner(make), _learner(make)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = _train(one)
        torch.manual_seed(2)
        second = _train(two)
    assert torch.equal(first, second), "the same seed gave other weights"


def makes_its_state_in_begin(make: Make) -> None:
    """makes all of its state in begin, of what can be saved, and never changes a setting"""
    learner = _learner(make)
    part = learner.strategies[0]
    checkpoint.capture(learner)
    names, values = _public(part), part.settings()
    _train(learner)
    assert _public(part) == names, f"made after begin: {', '.join(sorted(_public(part) ^ names))}"
    changed = [key for key, value in part.settings().items() if value != values[key]]
    assert not changed, f"changed {', '.join(changed)}; keep what changes under another name"


def resumes(make: Make) -> None:
    """goes on identically from a checkpoint after any batch"""
    more = {"accumulate": 2, "warmup": 3}
    whole = _learner(make, **more)
    with tempfile.TemporaryDirectory() as folder:

        def save(learner: Learner) -> None:
            path = Path(folder, str(learner.clock.train_iterations))
            checkpoint.save(path, checkpoint.capture(learner))

        whole.between_batches = save
        _train(whole)
        expected = checkpoint.capture(whole)
        for path in sorted(Path(folder).iterdir())[:-1]:
            learner = _learner(make, **more)
            checkpoint.restore(learner, checkpoint.load(path))
            _train(learner)
            found = checkpoint.capture(learner)
            for key in ("backbone", "strategies", "generators"):
                told = f"stopped after batch {path.name} and resumed, {key} end otherwise; a name with an underscore "
                assert _same(found[key], expected[key]), told + "is for what lives for one step"


def is_blind(make: Make) -> None:
    """never reads labels or tasks"""
    if make().needs_boundaries:
        return
    plain, relabelled = (_train(_learner(make), Noise(clips_per_task=8, shift=shift)) for shift in (0, 7))
    assert torch.equal(plain, relabelled), "other labels and task numbers gave other weights"


def works_with_little_memory(make: Make) -> None:
    """works with a memory that is empty, or smaller than the batch"""
    for capacity in (0, 2):

        def forgetful(capacity: int = capacity) -> Strategy:
            part = make()
            if isinstance(getattr(part, "memory", None), Memory):
                part.memory = Memory(capacity=capacity)  # type: ignore[attr-defined]
            return part

        _finite(_train(_learner(forgetful)), f"memory.capacity = {capacity}")


def works_with_any_batch(make: Make) -> None:
    """works with batches of 1 and 2 clips, and with one that an unusable clip made smaller"""
    for size in (1, 2, 4):
        scenario = Noise(clips_per_task=4, bad=(2,))
        learner = _learner(make, batch_size=size, max_bad_share=0.5)
        _finite(_train(learner, scenario), f"a batch size of {size}")


def works_in_half_precision(make: Make) -> None:
    """trains in bfloat16 and float16"""
    for precision in ("bf16", "fp16"):
        _finite(_train(_learner(make, precision=precision)), f"learner.precision = {precision}")


def leaves_the_loop_alone(make: Make) -> None:
    """touches neither weights, gradients, the optimizer nor the generator of masks"""
    _train(_learner(make, accumulate=2, plugins=[_Guard()]))


PROMISES: tuple[Callable[[Make], None], ...] = (
    checks_its_settings,
    trains,
    makes_its_state_in_begin,
    repeats,
    is_blind,
    leaves_the_loop_alone,
    works_with_any_batch,
    works_with_little_memory,
    works_in_half_precision,
    resumes,
)
"""What every strategy keeps: each raises AssertionError if those that it is given a maker of do not."""


class _Guard(BaseSGDPlugin):
    """Compares what belongs to the loop before and after each of a strategy's verbs."""

    def before_training_iteration(self, strategy: Learner, **kwargs: Any) -> None:
        self.waiting = [p.grad.clone() for p in strategy.parameters() if p.grad is not None] if strategy.pending else []
        self._look(strategy)

    def before_forward(self, strategy: Learner, **kwargs: Any) -> None:
        self._compare(strategy, "prepare")
        gradients = [p.grad for p in strategy.parameters() if p.grad is not None]
        assert _same(gradients, self.waiting), "prepare changed gradients; take derivatives by torch.autograd.grad"

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

    def _compare(self, learner: Learner, verb: str) -> None:
        moments = [v for state in learner.optimizer.state.values() for v in state.values()]
        masks = learner.generators["mask"].get_state()
        assert torch.equal(_weights(learner), self.weights), f"{verb} changed weights that the optimizer trains"
        assert _same(moments, self.moments), f"{verb} changed the optimizer's state"
        assert torch.equal(masks, self.masks), f'{verb} drew from generators["mask"]; there is "auxiliary"'


def _with_small_memory(cls: type[Strategy]) -> Make:
    setting = fields(cls).get("memory")
    remembers = setting is not None and setting.component is Memory
    return lambda: cls(**{"memory": Memory(capacity=8)} if remembers else {})


@contextlib.contextmanager
def _kept(name: str, promise: Callable[[Make], None]) -> Iterator[None]:
    """Whatever goes wrong within this block breaks the promise."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        raise AssertionError(f"{name} breaks a promise, that a strategy {promise.__doc__}: {kind}{error}") from error


def _learner(make: Make, **settings: Any) -> Learner:
    defaults: dict[str, Any] = {"epochs": 1, "batch_size": 4, "lr": 1e-3}
    return Learner(backbone=small_backbone(), strategy=make(), **(defaults | settings))


def _train(learner: Learner, scenario: Scenario | None = None) -> Tensor:
    """What is left of the stream; returns all weights."""
    stream = (scenario or Noise(clips_per_task=8)).benchmark(joint=learner.strategies[0].joint).train_stream
    for number, experience in enumerate(stream):
        if number >= learner.tasks_done:
            learner.train(experience)
    return _weights(learner)


def _weights(learner: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.parameters()])


def _finite(weights: Tensor, where: str) -> None:
    assert bool(torch.isfinite(weights).all()), f"with {where} the weights are not finite"


def _public(part: Strategy) -> set[str]:
    return {key for key in vars(part) if not key.startswith("_")}


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(value, two[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(_same, one, two))
    return one == two
