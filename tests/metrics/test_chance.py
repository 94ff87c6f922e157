"""Chance by hand and by drawing lots, and what is not above it."""

import numpy as np
import pytest

from avcl.metrics.chance import at_chance, median_rank_chance, recall_chance


def measure(chance, gallery, higher=True):
    names = ("chance", "chance_deviation")
    return dict(zip(names, chance, strict=True)) | {"gallery": gallery, "higher_is_better": higher}


def test_chance_by_hand():
    assert recall_chance([1], 8) == pytest.approx((12.5, 100 * (1 / 8 * 7 / 8) ** 0.5))
    assert recall_chance([10], 8) == (100, 0)
    assert recall_chance([1, 5, 10], 100)[0] == pytest.approx(16 / 3)
    assert median_rank_chance(8)[0] == 4.5


def test_the_deviations_are_those_of_lots():
    gallery, queries = 100, 50
    ranks = np.random.default_rng(0).integers(1, gallery + 1, size=(4000, queries))
    hits = 100 * np.stack([ranks <= k for k in (1, 5, 10)]).mean(0)
    assert hits.mean(1).std() * queries**0.5 == pytest.approx(recall_chance([1, 5, 10], gallery)[1], rel=0.05)
    assert np.median(ranks, axis=1).std() * queries**0.5 == pytest.approx(median_rank_chance(gallery)[1], rel=0.05)


@pytest.mark.parametrize(
    ("value", "queries", "expected"),
    [(100.0, [4], True), (99.0, [4], True), (None, [4], False)],
)
def test_r_at_10_in_a_gallery_of_8_is_always_chance(value, queries, expected):
    assert at_chance(measure(recall_chance([10], 8), 8), value, queries) is expected


def test_above_chance_is_by_more_than_two_standard_errors():
    recall = measure(recall_chance([1], 100), 100)
    error = 100 * (0.01 * 0.99 / 400) ** 0.5
    assert at_chance(recall, 1 + 1.99 * error, [400])
    assert not at_chance(recall, 1 + 2.01 * error, [400])
    assert at_chance(recall, 1 + 2.01 * error, [200, 100]), "fewer queries, a larger error"
    rank = measure(median_rank_chance(100), 100, higher=False)
    assert at_chance(rank, 50.5 - 1.9 * 5, [100]) and not at_chance(rank, 50.5 - 2.1 * 5, [100])
    assert not at_chance({}, 0.0, [1]), "of a measure without chance nothing is said"
