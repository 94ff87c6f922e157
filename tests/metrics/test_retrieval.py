"""Retrieval: ranks by hand, chance for a collapsed embedding, one value whatever the batch size."""

from types import SimpleNamespace

import pytest
import torch

from avcl.compat import quiet_evaluator
from avcl.metrics.retrieval import Retrieval, expected_rank, recall_at
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import Noise

SIMILARITY = torch.tensor(
    [
        [0.9, 0.1, 0.2, 0.3],  # own is first
        [0.8, 0.5, 0.1, 0.2],  # own is second
        [0.7, 0.6, 0.1, 0.5],  # own is last
        [0.4, 0.3, 0.2, 0.4],  # own shares the first place with one other
    ]
)


def test_ranks_by_hand():
    assert recall_at(SIMILARITY, (1, 2, 3)).tolist() == [
        [100, 100, 100],
        [0, 100, 100],
        [0, 0, 0],
        [50, 100, 100],
    ]
    assert expected_rank(SIMILARITY).tolist() == [1, 2, 4, 1.5]


def test_a_collapsed_embedding_is_at_chance():
    hits = recall_at(torch.ones(40, 40), (1, 5, 10, 100))
    assert hits.mean(0).tolist() == pytest.approx([2.5, 12.5, 25, 100])
    assert expected_rank(torch.ones(40, 40)).tolist() == [20.5] * 40


def test_what_is_not_a_number_is_no_hit():
    similarity = torch.eye(3)
    similarity[1] = float("nan")
    assert recall_at(similarity, (1, 2)).tolist() == [[100, 100], [0, 0], [100, 100]]
    assert recall_at(torch.full((3, 3), float("nan")), (1, 2, 3)).max() == 0


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
    assert small["queries"] == [16, 16]
    chance = {"R@1": 3.125, "R@5": 15.625, "R@10": 31.25, "R@mean": 50 / 3, "median_rank": 16.5}
    assert small["chance"] == pytest.approx(chance)
    for key, measure in small["measures"].items():
        assert (measure["gallery"], measure["chance"]) == (32, pytest.approx(chance[key.partition("/")[2]]))


def test_every_tag_after_every_evaluation(make_learner):
    retrieval, shown = run(make_learner, 16, evaluations=2)
    for direction in ("a2v", "v2a"):
        for k in ("R@1", "R@5", "R@10", "R@mean", "median_rank"):
            summaries = ("average", "learning_accuracy", "forgetting", "forgetting_with_last", "chance")
            for part in ("one", "two", *summaries):
                assert isinstance(shown[f"eval/{direction}/{k}/{part}"], float)
    assert (shown["eval/gallery"], shown["eval/v2a/median_rank/chance"]) == (32, 16.5)
    measure = retrieval.results()["measures"]["a2v/R@10"]
    assert measure["learning_accuracy"][1] == (measure["matrix"][0][0] + measure["matrix"][1][1]) / 2
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


def test_the_median_rank_of_a_task_is_over_its_own_queries_in_the_gallery_of_all():
    """Video is one-hot, so that the similarities are the audio embeddings; the first three clips are a task."""
    audio = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0]])
    retrieval, learner = (
        Retrieval(("one", "two")),
        SimpleNamespace(clock=SimpleNamespace(train_iterations=7), steps=7, tasks_done=1, batches_done=0),
    )
    for task, rows in ((0, slice(0, 3)), (1, slice(3, 4))):
        learner.experience = SimpleNamespace(current_experience=task)
        learner.mb_output = audio[rows], torch.eye(4)[rows]
        retrieval.after_eval_iteration(learner)
    shown = {value.name: value.value for value in retrieval.after_eval(learner)}
    assert shown["eval/a2v/median_rank/one"] == 2  # of 1, 2, 3
    assert shown["eval/a2v/median_rank/two"] == 4
    assert shown["eval/a2v/median_rank/average"] == 2  # of the tasks seen so far
    assert shown["eval/v2a/median_rank/one"] == shown["eval/v2a/median_rank/two"] == 2.5  # all are equally near


def test_two_galleries_where_some_clips_are_of_no_task(make_learner, noise):
    """With and without the clips of labels that no task trains on; the headline is without."""
    alone, larger = Retrieval(leave_out={1}), Retrieval(name="retrieval_all_classes")
    learner = make_learner(Finetune(), evaluator=quiet_evaluator(alone, larger))
    learner.eval(noise.benchmark().eval_stream)
    assert (alone.gallery, larger.gallery) == (16, 32)
    assert (str(alone), str(larger)) == ("retrieval", "retrieval_all_classes")
    names = {value.name for value in larger.after_eval(learner)}
    assert "eval/retrieval_all_classes/gallery" in names and not any(name.startswith("eval/a2v") for name in names)
