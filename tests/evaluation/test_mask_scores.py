"""IoU and F-score of masks by hand, and beside a plain transcription of AVSBench's definition."""

import pytest
import torch

from avcl.evaluation.mask_scores import MaskScores, f_curves, mask_iou


def mask(*rows):
    return torch.tensor([[[pixel == "x" for pixel in row] for row in rows]])


HALF = mask("xx..", "xx..")  # 4 of 8 pixels


def test_iou_by_hand():
    shifted = mask(".xx.", ".xx.")  # 2 shared, 6 in either
    assert mask_iou(HALF.float(), HALF).tolist() == [1.0]
    assert mask_iou(shifted.float(), HALF).tolist() == [2 / 6]
    assert mask_iou(torch.zeros(1, 2, 4), HALF).tolist() == [0.0]


def test_exactly_one_half_is_background():
    assert mask_iou(torch.full((1, 2, 4), 0.5), HALF).tolist() == [0.0]
    assert mask_iou(torch.full((1, 2, 4), 0.5001), HALF).tolist() == [0.5]


def test_empty_target_counts_the_background():
    nothing = torch.zeros(1, 2, 4, dtype=torch.bool)
    assert mask_iou(nothing.float(), nothing).tolist() == [1.0]
    assert mask_iou(HALF.float(), nothing).tolist() == [0.5]  # 4 of 8 pixels are rightly background
    assert mask_iou(torch.ones(1, 2, 4), nothing).tolist() == [0.0]


def test_f_curve_by_hand():
    probability = torch.tensor([[[0.9, 0.9, 0.4, 0.0], [0.9, 0.1, 0.4, 0.0]]])
    curve = f_curves(probability, HALF)[0]
    assert len(curve) == 255
    # all 8 pixels reach 0: precision 1/2, recall 1
    assert curve[0].item() == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))
    # at 127/254 = 0.5 three of the source's pixels and no other: precision 1, recall 3/4
    assert curve[127].item() == pytest.approx(1.3 * 0.75 / (0.3 + 0.75))
    # at 51/254 two of the background are among five: precision 3/5, recall 3/4
    assert curve[51].item() == pytest.approx(1.3 * 0.6 * 0.75 / (0.3 * 0.6 + 0.75))
    assert curve[254].item() == 0.0  # nobody reaches 1


def as_published(probability, target):
    """What AVSBench computes for the frames of one test batch, threshold by threshold."""
    total, frames = torch.zeros(255), 0
    for one, truth in zip(probability, target.float(), strict=True):
        if truth.mean() == 0:
            continue
        for place, threshold in enumerate(torch.linspace(0, 1 - 1e-10, 255)):
            above = (one >= threshold).float()
            hit = (above * truth).sum()
            precision, recall = hit / (above.sum() + 1e-20), hit / (truth.sum() + 1e-20)
            f = 1.3 * precision * recall / (0.3 * precision + recall)
            total[place] += 0 if f != f else f
        frames += 1
    return (total / frames).max().item() if frames else 0.0


def test_f_score_is_the_published_one():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 5, 6, 7, generator=generator) > 0.7
    target[1, 2] = False  # a frame without a source
    target[2] = False  # a clip without one
    probability = torch.sigmoid(4 * (target.float() - 0.5) + 3 * torch.randn(3, 5, 6, 7, generator=generator))
    probability[0, 0, 0, :2] = torch.tensor([0.0, 1.0])  # the ends of the thresholds
    scores = MaskScores()
    for clip in zip(probability, target, strict=True):
        scores.add(*clip)
    expected = [as_published(*clip) for clip in zip(probability, target, strict=True)]
    assert expected[2] == 0.0
    assert scores.scores()["f_score"] == pytest.approx(100 * sum(expected) / 3, rel=1e-5)
    fixed = as_published(probability.flatten(0, 1), target.flatten(0, 1))
    assert scores.scores()["f_score_fixed"] == pytest.approx(100 * fixed, rel=1e-5)
    ious = mask_iou(probability.flatten(0, 1), target.flatten(0, 1))
    assert scores.scores()["miou"] == pytest.approx(100 * ious.mean().item())
