"""ER: experience replay (Rolnick et al., NeurIPS 2019, arXiv 1811.11682).

::

    for each batch x:
        r    = clips drawn uniformly from memory
        loss = mean of L over [x; r], one forward pass
        optimizer step
        offer x to memory (reservoir sampling)

How we differ: nothing. As in the STELLA authors' experiments it is one joint forward, stored clips are
replayed as they were stored (augmented once), and are negatives of the current ones; see
``contrastive_scope`` for the other reading.

Status: invariants in tests/plugins/test_er.py; no golden step of the authors' code. The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.hookspecs import hookimpl
from avcl.strategy import Rehearsal, Strategy


@dataclass(kw_only=True)
class ER(Rehearsal):
    """Experience replay of uniformly drawn clips from a reservoir."""

    name = "er"


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register ER."""
    return [ER]
