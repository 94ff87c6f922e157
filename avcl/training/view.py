"""What a strategy is handed of the learner: the batch and what becomes of it, and nothing of where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Masks, Output
from avcl.utils import seeding

if TYPE_CHECKING:
    from avcl.strategy import Strategy
    from avcl.training.update import Update


@dataclass(eq=False, repr=False)
class LearnerView:
    """A task-free learner, as strategies see it: no label, task, count of tasks, data set, loader or experience.

    ``backbone``, on ``device`` with weights of ``dtype`` · ``generators``: named sources of randomness · ``initial``:
    tensors to start from for the strategies' own modules, by name · ``update``: optimizer, loss scale and gradient
    clipping, known after ``begin``.

    In a step: ``batch``: the clips to train on, of which the first ``num_current`` are current · ``current``: these
    as they were read; their ``index`` is an opaque identity · ``masks``, ``output``: of the forward pass ·
    ``weight (N,)``: a factor for each current clip's loss, None for ones · ``apart``: rows of the batch that are
    contrasted among themselves · ``losses``: by name, their sum is what is differentiated.
    """

    backbone: Backbone
    device: torch.device
    dtype: torch.dtype
    generators: dict[str, torch.Generator]
    initial: Mapping[str, Tensor]
    batch: Clip = field(init=False)
    current: Clip = field(init=False)
    num_current: int = field(init=False)
    masks: Masks = field(init=False)
    output: Output = field(init=False)
    weight: Tensor | None = None
    apart: list[slice] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    update: Update = field(init=False)

    @property
    def pending(self) -> int:
        """Batches whose gradients wait for the optimizer's step (gradient accumulation)."""
        return self.update.pending

    def enter(self, clip: Clip) -> None:
        """A new step, on ``clip``."""
        self.batch = self.current = clip
        self.num_current, self.weight, self.apart = len(clip), None, []

    def initial_state(self, strategy: str, module: str) -> dict[str, Tensor]:
        """The tensors of ``initial`` for a module of a strategy, by their names in it; maybe none."""
        for prefix in (f"{strategy}.{module}.", f"{module}."):
            found = {key.removeprefix(prefix): v for key, v in self.initial.items() if key.startswith(prefix)}
            if found:
                return found
        return {}


def begun(
    strategy: Strategy, backbone: Backbone, initial: Mapping[str, Tensor] | None = None, seed: int = 0
) -> Strategy:
    """``strategy``, begun on a backbone outside of any training, its modules with the ``initial`` tensors.

    For what can be asked of weights alone, such as ``strategy.selection``; its replay buffer is empty.
    """
    weight = next(backbone.parameters())
    generators = {name: seeding.generator(seed, name) for name in seeding.NAMES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        strategy.begin(LearnerView(backbone, weight.device, weight.dtype, generators, dict(initial or {})))
    for part in vars(strategy).values():
        if isinstance(part, nn.Module):
            part.to(weight.device, weight.dtype)
    return strategy


def shared(name: str) -> Any:
    """A property of the learner that is its view's: metrics, loggers and Avalanche's plugins read it there."""
    return property(lambda self: getattr(self.view, name), lambda self, value: setattr(self.view, name, value))
