"""ER: experience replay (Rolnick et al., NeurIPS 2019, arXiv 1811.11682).

A uniform sample of a reservoir memory joins every batch, L = mean of the loss over [current; past].

How we differ: nothing. As in the STELLA authors' experiments it is one joint forward, past clips are
replayed as they were stored (augmented once), and are negatives of the current ones; see
``contrastive_scope`` for the other reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.hookspecs import hookimpl
from avcl.strategy import Rehearsal, Strategy


@dataclass(kw_only=True)
class ER(Rehearsal):
    """Replay of uniformly drawn past clips, nothing else."""

    name = "er"


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register ER."""
    return [ER]
