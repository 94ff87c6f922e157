"""Modality gap: distances by hand, and one row for each evaluation at a task's end."""

import pytest
import torch

from avcl.compat import quiet_evaluator
from avcl.metrics.modality_gap import ModalityGap, gap_summaries, modality_gap
from avcl.metrics.selection import whole_clips
from avcl.plugins.finetune import Finetune
from avcl.testing import check_metric
from avcl.testing.toys import Noise


@pytest.mark.parametrize(
    ("audio", "video", "expected"),
    [
        ([[2.0, 0]], [[5.0, 0]], 0),
        ([[1.0, 0]], [[0.0, 7]], 2**0.5),
        ([[1.0, 0]], [[-3.0, 0]], 2),
        ([[1.0, 0], [0, 4]], [[0.0, 9], [3, 0]], 0),  # pairs are apart, their means are not
        ([[1.0, 0], [-1, 0]], [[0.0, 1]], 1),
    ],
)
def test_the_gap_by_hand(audio, video, expected):
    assert modality_gap(torch.tensor(audio), torch.tensor(video)) == pytest.approx(expected)


def test_average_and_drift_by_hand():
    gaps = [[0.5, 0.4, 0.1], [0.8, 0.6, 0.2], [0.3, 0.5, 0.9]]
    assert gap_summaries(gaps[:1]) == {"average": 0.5, "drift": None}
    assert gap_summaries(gaps) == pytest.approx({"average": 1.7 / 3, "drift": (0.5 + 0.1) / 2})
    assert gap_summaries(gaps[:1], joint=True) == pytest.approx({"average": 1 / 3, "drift": None})


def test_every_promise():
    check_metric(ModalityGap)


def test_a_row_after_every_task_and_none_within(make_learner):
    metric, streams = ModalityGap(), Noise().benchmark()
    learner = make_learner(Finetune(), evaluator=quiet_evaluator(metric), eval_batch_size=5)

    def within(learner):
        if learner.is_training and learner.batches_done == 2:
            learner.eval(streams.eval_stream)

    learner.between_batches = within
    for experience in streams.train_stream:
        learner.train(experience)
        learner.eval(streams.eval_stream)
    found = metric.results()
    assert [len(row) for row in found["matrix"]] == [2, 2]
    _, clip = whole_clips(Noise().clips(1, "eval"), range(16), learner.backbone)
    assert found["matrix"][1][1] == pytest.approx(modality_gap(*learner.backbone.embed(clip)))
    assert found["average"][0] == found["matrix"][0][0]
    assert found["drift"] == [None, found["matrix"][0][0] - found["matrix"][1][0]]
