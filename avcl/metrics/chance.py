"""Chance: what retrieval scores when embeddings say nothing, and which scores are not above it.

A measure (of ``results.json``) that can be told from chance has ``chance``, ``chance_deviation`` (standard deviation of
one query's score at chance), ``queries`` of every task, ``gallery`` and ``higher_is_better``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ERRORS = 2
"""Standard errors by which a score must be better than chance to be above it."""


def recall_chance(ks: Sequence[int], gallery: int) -> tuple[float, float]:
    """Chance of the mean recall at ``ks``, percent, and the standard deviation of one query's."""
    p = np.minimum(np.asarray(ks) / gallery, 1)
    covariance = np.minimum.outer(p, p) - np.outer(p, p)  # who is among the first 5 is among the first 10
    return 100 * float(p.mean()), 100 * math.sqrt(covariance.mean())


def median_rank_chance(gallery: int) -> tuple[float, float]:
    """Chance of the median rank, and a deviation that over the root of the queries is the median's error."""
    return (gallery + 1) / 2, gallery / 2


def at_chance(measure: Mapping[str, Any], value: float | None, queries: Sequence[int]) -> bool:
    """Whether ``value``, the mean over tasks of so many ``queries`` each, is not above chance.

    Above is better by more than two standard errors; for recall they are binomial. Of a measure without
    chance nothing is said: False.
    """
    if value is None or "chance_deviation" not in measure:
        return False
    error = measure["chance_deviation"] * math.sqrt(sum(1 / n for n in queries)) / len(queries)
    above = value - measure["chance"]
    return (above if measure["higher_is_better"] else -above) <= ERRORS * error
