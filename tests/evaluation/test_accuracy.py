"""Accuracies of a few hand-made predictions."""

import pytest
import torch

from avcl.evaluation.accuracy import per_task, places, top_k, top_k_chance
from avcl.evaluation.event_localization import bounds, events, segment_accuracy


def test_top_k_of_four_rows():
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [0.0, 0.0, 9.0]])
    target = torch.tensor([0, 0, 2, 1])
    # places of the target: 1, 3, 2, and 2 or 3 by a coin toss
    assert top_k(scores, target, (1, 2)).tolist() == [[100, 100], [0, 0], [0, 100], [0, 50]]


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_head_that_says_nothing_is_at_chance(value):
    hits = top_k(torch.full((3, 4), value), torch.tensor([0, 1, 2]), (1, 3))
    assert hits.tolist() == [[25, 75]] * 3
    assert (top_k_chance(4, 1), top_k_chance(4, 3), top_k_chance(4, 5)) == (25, 75, 100)


def test_what_is_not_a_number_is_no_hit():
    assert top_k(torch.tensor([[float("nan"), 1.0], [0.0, float("nan")]]), torch.tensor([0, 0]), (1,)).tolist() == [
        [0],
        [0],
    ]


def test_labels_have_places_among_the_classes():
    place, known = places(torch.tensor([2, 5, 9]), torch.tensor([9, 2, 3, 11, 5]))
    assert known.tolist() == [True, True, False, False, True]
    assert place[known].tolist() == [2, 0, 1]


def test_the_mean_of_each_task_by_name():
    hits, task = torch.tensor([100.0, 0.0, 100.0, 100.0]), torch.tensor([0, 0, 1, -1])
    assert per_task(hits, task, ("a", "b")) == {"a": 50.0, "b": 100.0, "-1": 100.0}


def test_segment_accuracy_of_two_clips():
    wanted = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2]])
    said = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0]])
    # 6 of 8; recalls 5/6, 1/1, 0/1
    assert segment_accuracy(said, wanted) == pytest.approx({"accuracy": 75, "balanced_accuracy": 100 * (11 / 6) / 3})
    always = torch.zeros_like(wanted)
    assert segment_accuracy(always, wanted) == pytest.approx({"accuracy": 75, "balanced_accuracy": 100 / 3})


def test_a_label_that_the_head_never_saw_is_wrong_whatever_it_says():
    wanted = torch.tensor([[0, 1, 1, 1]])
    known = torch.tensor([[True, True, False, True]])
    # labels 0, 1 and an unknown one: recalls 1, 1, 0
    assert segment_accuracy(wanted, wanted, known) == pytest.approx({"accuracy": 75, "balanced_accuracy": 200 / 3})


def test_a_segment_has_the_event_if_it_sounds_for_half_of_it():
    spans = torch.tensor([0, 10, 20, 30])
    interval = torch.tensor([[5, 20], [6, 24], [0, 30]])
    assert events(torch.tensor([3, 4, 5]), interval, spans).tolist() == [[3, 3, -1], [-1, 4, -1], [5, 5, 5]]


def test_parts_are_as_even_as_integers_can_be():
    assert bounds(16, 10) == [0, 2, 3, 5, 6, 8, 10, 11, 13, 14, 16]
    assert bounds(4, 2) == [0, 2, 4]
