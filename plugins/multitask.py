"""Multitask: joint training on all tasks, shuffled together. The upper bound: nothing comes later.

::

    for each batch x of the union of all tasks:
        loss = mean of L(x)
        optimizer step

As many epochs as the others spend on each task, the same learning rate, batch and initial weights. Every task is
evaluated on its own, once, at the end; forgetting is not defined.

Status: with one task equal to Finetune, bit for bit (tests/plugins/test_multitask.py). The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.hookspecs import hookimpl
from avcl.strategy import Strategy


@dataclass(kw_only=True)
class Multitask(Strategy):
    """Joint training on all tasks at once with the backbone's own loss: the upper bound."""

    name = "multitask"
    joint = True


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register Multitask."""
    return [Multitask]
