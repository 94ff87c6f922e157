"""One score for a stream: average accuracy, learning accuracy and forgetting of a task matrix.

A matrix holds, for every evaluation t (after task t), the score of every task i: ``scores[t][i]``.
"""

from collections.abc import Sequence

import numpy as np

Matrix = Sequence[Sequence[float]] | np.ndarray


def average(scores: Matrix) -> float:
    """Mean score over the tasks seen so far, A_t = 1/t sum_{i <= t} a_{t,i} (Lopez-Paz and Ranzato, 2017)."""
    return float(np.mean(scores[-1][: len(scores)]))


def learning_accuracy(scores: Matrix) -> float:
    """Mean score of each task right after it was learned, 1/t sum_{i <= t} a_{i,i} (Riemer et al., 2019).

    Read it beside forgetting (arXiv 1810.11910): who learns little has little to forget.
    """
    return float(np.mean(np.diagonal(scores)))


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


def anytime(scores: Matrix, seen: Sequence[int]) -> list[float]:
    """Mean score at every evaluation over the ``seen`` tasks that had begun by then (Caccia et al., 2022)."""
    return [float(np.mean(row[:tasks])) for row, tasks in zip(scores, seen, strict=True)]


def worst_drop(scores: Matrix, seen: Sequence[int]) -> float:
    """The largest fall of a task from any evaluation to any later one, averaged over the tasks that had begun.

    Evaluations within tasks show what those at their ends hide: a collapse right behind a boundary that recovers
    (the stability gap; De Lange et al., 2023, arXiv 2205.13452).
    """
    table = np.asarray(scores, dtype=float)[:, : seen[-1]]
    drops = []
    for task, curve in enumerate(table.T):
        begun = curve[[tasks > task for tasks in seen]]
        drops.append(float(np.max(np.maximum.accumulate(begun) - begun)))
    return float(np.mean(drops))


def summaries(scores: Matrix, higher_is_better: bool = True) -> dict[str, float | None]:
    """All of them by name. Where lower is better, as of ranks, forgetting is the rise: more is always worse."""
    drops = scores if higher_is_better else -np.asarray(scores, dtype=float)
    return {
        "average": average(scores),
        "learning_accuracy": learning_accuracy(scores),
        "forgetting": forgetting(drops),
        "forgetting_with_last": forgetting_with_last(drops),
    }
