"""Finetune: train on what comes, remember nothing. The lower bound that every method is measured against.

::

    for each batch x:
        loss = mean of L(x)
        optimizer step

Status: equal, bit for bit, to a hand-written loop (tests/plugins/test_finetune.py). The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.hookspecs import hookimpl
from avcl.strategy import Strategy


@dataclass(kw_only=True)
class Finetune(Strategy):
    """Sequential training with the backbone's own loss, without a replay buffer: the lower bound."""

    name = "finetune"


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register Finetune."""
    return [Finetune]
