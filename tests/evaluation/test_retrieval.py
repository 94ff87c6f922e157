"""Zero-shot retrieval as a run measures it, and after fine-tuning a copy of the model."""

import dataclasses

import pytest
import torch
from helpers.toys import small_learner

from avcl.compat import quiet_evaluator
from avcl.evaluation import retrieval
from avcl.evaluation.features import Features
from avcl.evaluation.protocol import Frozen, evaluated
from avcl.evaluation.retrieval import ZeroShotRetrieval
from avcl.evaluation.retrieval_finetuned import FinetunedRetrieval
from avcl.metrics import Retrieval
from avcl.strategy import Strategy
from avcl.testing import Noise, small_backbone


def frozen(**settings):
    return Frozen(backbone=small_backbone(), scenario=Noise(clips_per_task=12), **settings)


def test_scores_are_those_of_a_run():
    model = frozen()
    learner = small_learner(Strategy(), evaluator=quiet_evaluator(metric := Retrieval()), eval_batch_size=5)
    learner.tasks_done = 2
    learner.eval(model.scenario.benchmark().eval_stream)
    found = evaluated(ZeroShotRetrieval(), model)
    expected = metric.results()
    assert found.details["per_task"] == {
        key: pytest.approx(measure["matrix"][-1]) for key, measure in expected["measures"].items()
    }
    for key, measure in expected["measures"].items():
        assert found.scores[key] == pytest.approx(sum(measure["matrix"][-1]) / 2)
        assert found.chance[key] == pytest.approx(measure["chance"])
        assert (key in found.lower_is_better) is not measure["higher_is_better"]
    assert (found.clips, found.details["queries"]) == (24, [12, 12])


def test_batches_and_workers_change_nothing():
    one, two = (
        evaluated(ZeroShotRetrieval(), frozen(**settings)) for settings in ({}, {"batch_size": 5, "workers": 2})
    )
    assert one == two


def test_four_clips_by_hand(monkeypatch):
    """The second audio finds the third video, and its own next; the clip of label 9 is in no gallery."""
    audio = torch.eye(4)
    video = torch.tensor([[1.0, 0, 0, 0], [0, 0.6, 0.8, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    label, task = torch.tensor([0, 1, 2, 9]), torch.tensor([0, 0, 1, 1])
    told = Features(torch.cat([audio, video], dim=1), label, task, torch.arange(4))
    monkeypatch.setattr(retrieval, "features", lambda *args: told)

    class Gallery(Noise):
        gallery_only = frozenset({9})

    found = ZeroShotRetrieval().evaluate(dataclasses.replace(frozen(), scenario=Gallery()))
    assert found.clips == 3
    # task 0: ranks 1 and 2; task 1: video 3 has cosine 0 to its own audio, as has video 1: rank 2 or 3
    assert found.details["per_task"]["a2v/R@1"] == [50.0, 0.0]
    assert found.details["per_task"]["a2v/median_rank"] == [1.5, 2.5]
    assert found.scores["a2v/R@1"] == 25.0
    assert found.chance["a2v/R@1"] == pytest.approx(100 / 3)


def test_a_copy_is_fine_tuned_and_the_model_stays():
    model = frozen()
    before = [p.clone() for p in model.backbone.parameters()]
    settings = {"epochs": 20, "batch_size": 8, "lr": 3e-3}
    one, two = (evaluated(FinetunedRetrieval(**settings), model) for _ in range(2))
    assert one == two
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.parameters(), strict=True))
    assert one.details["zero_shot"] == evaluated(ZeroShotRetrieval(), model).scores
    gain = one.scores["a2v/R@mean"] + one.scores["v2a/R@mean"]
    assert gain > one.details["zero_shot"]["a2v/R@mean"] + one.details["zero_shot"]["v2a/R@mean"]
    assert one.details["training_clips"] == 24
    few = evaluated(FinetunedRetrieval(**settings | {"epochs": 1}, train_clips=5), model)
    assert few.details["training_clips"] == 5
