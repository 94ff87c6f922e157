"""Scores of heat maps by hand."""

import pytest
import torch

from avcl.errors import UserError
from avcl.evaluation.localization_scores import (
    LocalizationScores,
    consensus_iou,
    pointing,
    predicted,
    success_auc,
    success_rate,
    upsampled,
)

HEAT = torch.tensor([[[8.0, 7.0, 2.0, 1.0], [6.0, 5.0, 4.0, 3.0]]])
SOURCE = torch.tensor([[[1, 0, 0, 0], [1, 0, 0, 0]]]).bool()


def test_above_the_median_are_half_less_one_of_the_pixels():
    # the published rule: above the pixel at place n/2 of the sorted ones, here above 5
    assert predicted(HEAT, SOURCE, "half").tolist() == [[[True, True, False, False], [True, False, False, False]]]


def test_adaptive_takes_as_many_as_the_truth_has():
    assert predicted(HEAT, SOURCE, "truth").tolist() == [[[True, True, False, False], [False] * 4]]
    level = torch.zeros(1, 2, 4)
    assert predicted(level, SOURCE, "truth").sum() == 2  # of equal ones the first


def test_consensus_iou_by_hand():
    half, adaptive = predicted(HEAT, SOURCE, "half"), predicted(HEAT, SOURCE, "truth")
    assert consensus_iou(half, SOURCE).tolist() == [2 / 3]
    assert consensus_iou(adaptive, SOURCE).tolist() == [1 / 3]
    # one of two annotators marked the second pixel: it weighs a half, and predicting it is no mistake
    weight = torch.tensor([[[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    assert consensus_iou(half, weight).tolist() == [pytest.approx(1.5 / (1.5 + 1))]
    assert consensus_iou(torch.zeros(1, 2, 4, dtype=torch.bool), torch.zeros(1, 2, 4)).tolist() == [0.0]


def test_success_and_its_area():
    ious = torch.tensor([0.0, 0.52, 0.52, 1.0], dtype=torch.float64)
    assert success_rate(ious) == 0.75
    # rates: 1 at 0, 3/4 at 0.05 to 0.5 (ten), 1/4 at 0.55 to 1 (ten)
    by_hand = 0.05 * ((1 + 0.75) / 2 + 9 * 0.75 + (0.75 + 0.25) / 2 + 9 * 0.25)
    assert success_auc(ious) == pytest.approx(by_hand)
    assert success_auc(torch.ones(3)) == pytest.approx(1)


def test_pointing_counts_equal_peaks_by_their_share():
    assert pointing(HEAT, SOURCE).tolist() == [1.0]
    assert pointing(-HEAT, SOURCE).tolist() == [0.0]
    assert pointing(torch.zeros(1, 2, 4), SOURCE).tolist() == [0.25]


def all_scores(heat, target):
    found = LocalizationScores()
    found.add(heat, target)
    return found.scores()


def test_frames_without_a_source_are_left_out():
    heat, target = torch.cat([HEAT, -HEAT]), torch.cat([SOURCE, torch.zeros_like(SOURCE)])
    scores = all_scores(HEAT, SOURCE)
    assert all_scores(heat, target) == scores
    assert scores["ciou"] == 100 and scores["ciou_adaptive"] == 0 and scores["pointing"] == 100
    with pytest.raises(UserError, match="no frame has a source"):
        all_scores(HEAT, torch.zeros_like(SOURCE))


def test_upsampled_keeps_the_centres_of_patches():
    large = upsampled(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]), 6, 6)
    assert large.shape == (1, 6, 6)
    assert torch.allclose(large[0, 1::3, 1::3], torch.tensor([[0.0, 1.0], [2.0, 3.0]]), atol=1e-6)
