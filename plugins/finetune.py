"""Finetune: train on what comes, remember nothing. The lower bound that every method is measured against."""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.hookspecs import hookimpl
from avcl.strategy import Strategy


@dataclass(kw_only=True)
class Finetune(Strategy):
    """Sequential training with the backbone's own loss; no memory, no setting."""

    name = "finetune"


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register Finetune."""
    return [Finetune]
