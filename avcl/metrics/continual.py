"""One score for a stream: average accuracy and forgetting of a task matrix.

A matrix holds, for every evaluation t (after task t), the score of every task i: ``scores[t][i]``.
"""

from collections.abc import Sequence

import numpy as np

Matrix = Sequence[Sequence[float]]


def average(scores: Matrix) -> float:
    """Mean score over the tasks seen so far, A_t = 1/t sum_{i <= t} a_{t,i} (Lopez-Paz and Ranzato, 2017)."""
    return float(np.mean(scores[-1][: len(scores)]))


def forgetting(scores: Matrix) -> float | None:
    """F_t = 1/(t-1) sum_{i < t} (max_{l < t} a_{l,i} - a_{t,i}) (Chaudhry et al., 2018, arXiv 1801.10112).

    The largest drop from any earlier evaluation, over all tasks but the last. None after the first task.
    """
    table = np.asarray(scores, dtype=float)
    if len(table) < 2:
        return None
    return float(np.mean((table[:-1].max(0) - table[-1])[: len(table) - 1]))


def forgetting_with_last(scores: Matrix) -> float | None:
    """The variant in the STELLA authors' code: the last task is summed too, the divisor stays t - 1."""
    table = np.asarray(scores, dtype=float)
    if len(table) < 2:
        return None
    return float((table[:-1].max(0) - table[-1])[: len(table)].sum() / (len(table) - 1))
