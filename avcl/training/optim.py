"""Parameter groups (weight decay or none) and the optimizer over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from avcl.backbones.protocol import Backbone

OptimizerMaker = Callable[[list[dict[str, Any]]], Optimizer]


def parameter_groups(backbone: Backbone, others: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weight decay for matrices, none for vectors and what the backbone exempts."""
    exempt = set(backbone.no_decay())
    named = list(backbone.named_parameters()) + [("", p) for module in others for p in module.parameters()]
    named = [(name, p) for name, p in named if p.requires_grad]
    decaying = [p for name, p in named if p.ndim > 1 and name not in exempt]
    bare = [p for name, p in named if p.ndim <= 1 or name in exempt]
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": bare, "weight_decay": 0.0}]


def optimizer_of(
    groups: list[dict[str, Any]], kind: Literal["adam", "adamw"] | OptimizerMaker, lr: float, betas: tuple[float, float]
) -> Optimizer:
    """Adam, AdamW, or whatever a function makes of the groups (then learning rate and betas are its own affair)."""
    if callable(kind):
        return kind(groups)
    return {"adam": Adam, "adamw": AdamW}[kind](groups, lr=lr, betas=betas)
