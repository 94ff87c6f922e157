"""Attention forgetting: the correlation of two maps by hand, and of the same clips after every task."""

import pytest
import torch
from helpers.toys import NoiseWithTruth, small, small_learner

from avcl.compat import quiet_evaluator
from avcl.metrics.attention import AttentionForgetting, map_correlation
from avcl.plugins.derpp import DERpp
from avcl.plugins.random_patches import RandomPatches
from avcl.plugins.stella import Stella
from avcl.testing import check_metric


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2, 3], [10.0, 20, 30], 1),
        ([1.0, 2, 3], [3.0, 2, 1], -1),
        ([1.0, 0, 0, 0], [0.0, 1, 0, 0], -1 / 3),
        ([1.0, 2, 3, 4], [1.0, 3, 2, 4], 0.8),
    ],
)
def test_the_correlation_of_maps_by_hand(one, other, expected):
    assert map_correlation(torch.tensor([one]), torch.tensor([other])).tolist() == pytest.approx([expected])


def test_a_map_that_is_the_same_all_over_has_none():
    assert map_correlation(torch.full((1, 5), 0.2), torch.rand(1, 5)).isnan().all()


def trained(cls, metric, eval_batch_size=16):
    evaluator = quiet_evaluator(metric)
    learner = small_learner(small(cls, dtype="float32"), evaluator=evaluator, eval_batch_size=eval_batch_size)
    streams = NoiseWithTruth(tasks=3).benchmark()
    for experience in streams.train_stream:
        learner.train(experience)
        learner.eval(streams.eval_stream)
    return metric


def test_a_task_that_was_just_learned_is_the_measure_of_all_later_ones():
    metric = trained(Stella, AttentionForgetting(NoiseWithTruth(tasks=3), clips=3))
    found = metric.results()
    for kind in ("video", "audio"):
        matrix = found[kind]["matrix"]
        assert [len(row) for row in matrix] == [1, 2, 3]
        assert [row[-1] for row in matrix] == pytest.approx([1, 1, 1])
        assert found[kind]["average"] == [None, matrix[1][0], pytest.approx((matrix[2][0] + matrix[2][1]) / 2)]
        assert matrix[2][0] < 1
        now, then = metric.maps[2][0][kind], metric.maps[0][0][kind]
        assert len(now) == 3
        assert matrix[2][0] == pytest.approx(float(map_correlation(now, then).mean()))
    assert found == trained(Stella, AttentionForgetting(NoiseWithTruth(tasks=3), clips=3), 5).results()


def test_blind_selection_has_no_correlation_and_no_selection_no_results():
    found = trained(RandomPatches, AttentionForgetting(NoiseWithTruth(tasks=3))).results()
    assert found["video"] == {"matrix": [[None], [None] * 2, [None] * 3], "average": [None] * 3}
    assert trained(DERpp, AttentionForgetting(NoiseWithTruth(tasks=3))).results() == {}


def test_every_promise():
    check_metric(
        lambda: AttentionForgetting(NoiseWithTruth(), clips=3), strategy=lambda: small(Stella, dtype="float32")
    )
