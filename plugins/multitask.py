"""Multitask: all tasks at once, shuffled together. The upper bound: nothing comes later, nothing is forgotten.

As many epochs as the others spend on each task, the same rate, batch and first weights, on the union of all
tasks' clips. Every task is evaluated on its own, once, at the end; forgetting is not defined.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.hookspecs import hookimpl
from avcl.strategy import Strategy


@dataclass(kw_only=True)
class Multitask(Strategy):
    """Joint training with the backbone's own loss; no memory, no setting."""

    name = "multitask"
    joint = True


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register Multitask."""
    return [Multitask]
