"""Retrieval: ranks by hand, chance for a collapsed embedding, one value whatever the batch size."""

import pytest
import torch

from avcl.compat import quiet_evaluator
from avcl.metrics.retrieval import Retrieval, recall_at
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import Noise


def test_ranks_by_hand():
    similarity = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.3],  # own is first
            [0.8, 0.5, 0.1, 0.2],  # own is second
            [0.7, 0.6, 0.1, 0.5],  # own is last
            [0.4, 0.3, 0.2, 0.4],  # own shares the first place with one other
        ]
    )
    assert recall_at(similarity, (1, 2, 3)).tolist() == [
        [100, 100, 100],
        [0, 100, 100],
        [0, 0, 0],
        [50, 100, 100],
    ]


def test_a_collapsed_embedding_is_at_chance():
    hits = recall_at(torch.ones(40, 40), (1, 5, 10, 100))
    assert hits.mean(0).tolist() == pytest.approx([2.5, 12.5, 25, 100])


def run(make_learner, eval_batch_size, evaluations=1):
    noise, retrieval, shown = Noise(tasks=2), Retrieval(("one", "two")), {}

    class Catch(Retrieval):
        def after_eval(self, strategy):
            values = super().after_eval(strategy)
            shown.update({value.name: value.value for value in values})
            return values

    retrieval = Catch(("one", "two"))
    learner = make_learner(Finetune(), evaluator=quiet_evaluator(retrieval), eval_batch_size=eval_batch_size)
    benchmark = noise.benchmark()
    for experience in list(benchmark.train_stream)[:evaluations]:
        learner.train(experience)
        learner.eval(benchmark.eval_stream)
    return retrieval, shown


def test_recall_does_not_depend_on_the_batch_size(make_learner):
    small, large = (run(make_learner, size)[0].results() for size in (3, 48))
    assert small == large
    assert small["gallery"] == 32
    assert small["chance"] == {"R@1": 3.125, "R@5": 15.625, "R@10": 31.25}


def test_every_tag_after_every_evaluation(make_learner):
    retrieval, shown = run(make_learner, 16, evaluations=2)
    for direction in ("a2v", "v2a"):
        for k in ("R@1", "R@5", "R@10", "R@mean"):
            for part in ("one", "two", "average", "forgetting", "forgetting_with_last"):
                assert isinstance(shown[f"eval/{direction}/{k}/{part}"], float)
    measure = retrieval.results()["measures"]["a2v/R@10"]
    assert len(measure["matrix"]) == 2
    assert measure["forgetting"][0] is None
    assert measure["forgetting"][1] == measure["matrix"][0][0] - measure["matrix"][1][0]
    assert measure["average"][1] == sum(measure["matrix"][1]) / 2
    mean = retrieval.results()["measures"]["v2a/R@mean"]["matrix"][1][1]
    assert mean == pytest.approx(sum(retrieval.history[f"v2a/R@{k}"][1][1] for k in (1, 5, 10)) / 3)


def test_state_goes_on(make_learner):
    first, _ = run(make_learner, 16)
    second = Retrieval(("one", "two"))
    second.load_state_dict(first.state_dict())
    assert second.results() == first.results()
