"""One optimizer over the whole stream: what decays, what does not, and how the rate begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LinearLR

from avcl.backbones.protocol import Backbone

OptimizerMaker = Callable[[list[dict[str, Any]]], Optimizer]


def parameter_groups(backbone: Backbone, others: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of what is trained: decay for matrices, none for vectors and what the backbone exempts."""
    exempt = set(backbone.no_decay())
    named = list(backbone.named_parameters()) + [("", p) for module in others for p in module.parameters()]
    named = [(name, p) for name, p in named if p.requires_grad]
    decaying = [p for name, p in named if p.ndim > 1 and name not in exempt]
    bare = [p for name, p in named if p.ndim <= 1 or name in exempt]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": bare, "weight_decay": 0.0}]


def optimizer_of(
    groups: list[dict[str, Any]], kind: Literal["adam", "adamw"] | OptimizerMaker, lr: float, betas: tuple[float, float]
) -> Optimizer:
    """Adam, AdamW, or whatever a function makes of the groups (then rate and betas are its own affair)."""
    if callable(kind):
        return kind(groups)
    return {"adam": Adam, "adamw": AdamW}[kind](groups, lr=lr, betas=betas)


def warm_up(optimizer: Optimizer, steps: int) -> LinearLR | None:
    """The rate rises linearly over so many steps, then belongs to whoever changes it next."""
    return LinearLR(optimizer, start_factor=1 / (steps + 1), total_iters=steps) if steps else None
