"""Average, learning accuracy and forgetting against matrices worked out by hand."""

import pytest

from avcl.metrics.continual import (
    anytime,
    average,
    forgetting,
    forgetting_with_last,
    learning_accuracy,
    summaries,
    worst_drop,
)

# after task 1, 2, 3 (rows): the score of tasks 1, 2, 3 (columns)
SCORES = [[50.0, 10.0, 8.0], [30.0, 60.0, 12.0], [20.0, 45.0, 70.0]]


def test_average_is_over_the_tasks_seen():
    assert average(SCORES[:1]) == 50
    assert average(SCORES[:2]) == (30 + 60) / 2
    assert average(SCORES) == 45


def test_learning_accuracy_is_the_diagonal():
    assert learning_accuracy(SCORES[:1]) == 50
    assert learning_accuracy(SCORES) == (50 + 60 + 70) / 3


def test_who_learns_nothing_forgets_nothing_and_it_shows():
    slow = summaries([[1.0, 1.0], [1.0, 1.0]])
    assert (slow["forgetting"], slow["learning_accuracy"]) == (0, 1)


def test_a_rank_that_rises_is_forgetting():
    ranks = summaries([[3.0, 9.0], [5.0, 2.0]], higher_is_better=False)
    assert ranks == {"average": 3.5, "learning_accuracy": 2.5, "forgetting": 2, "forgetting_with_last": 2 - 7}


def test_chaudhry_forgetting_by_hand():
    assert forgetting(SCORES[:1]) is None
    assert forgetting(SCORES[:2]) == 50 - 30
    assert forgetting(SCORES) == ((50 - 20) + (60 - 45)) / 2


def test_the_authors_variant_sums_the_last_task_too():
    assert forgetting_with_last(SCORES[:2]) == (50 - 30) + (10 - 60)
    assert forgetting_with_last(SCORES) == ((50 - 20) + (60 - 45) + (12 - 70)) / 2


def test_a_gain_counts_against_forgetting():
    assert forgetting([[10.0, 0.0], [25.0, 30.0]]) == -15


@pytest.mark.parametrize("summary", [forgetting, forgetting_with_last])
def test_nothing_can_be_forgotten_after_one_task(summary):
    assert summary([[1.0, 2.0]]) is None


def test_anytime_by_hand():
    """Two tasks, each evaluated within and at its end; the first falls by 30 and recovers by 20."""
    scores = [[10.0, 1.0], [40.0, 2.0], [10.0, 20.0], [30.0, 50.0]]
    seen = [1, 1, 2, 2]
    assert anytime(scores, seen) == [10.0, 40.0, 15.0, 40.0]
    assert worst_drop(scores, seen) == (30 + 0) / 2
    assert worst_drop(scores[:2], seen[:2]) == 0
