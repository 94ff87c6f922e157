"""Multitask: one task of all clips, evaluated task by task."""

import json

import torch
from helpers.toys import small, small_learner, train, watched

from avcl.experiment.run import Run
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.plugins.multitask import Multitask
from avcl.report.tables import run_markdown
from avcl.testing.toys import Noise, small_backbone


def test_M1_the_union_of_all_clips_once_each():
    benchmark = Noise(tasks=3).benchmark(joint=True)
    assert len(benchmark.train_stream) == 1
    data = benchmark.train_stream[0].dataset
    numbers = [data[i]["index"] for i in range(len(data))]
    assert len(numbers) == len(set(numbers)) == 3 * 16
    assert [len(experience.dataset) for experience in benchmark.eval_stream] == [16, 16, 16]


def test_M2_of_one_task_it_is_finetune_bit_for_bit():
    one = Noise(tasks=1)
    joint, plain = (small_learner(strategy, torch.float64) for strategy in (Multitask(), Finetune()))
    assert torch.equal(train(joint, one, joint=True), train(plain, one))


def test_M3_shuffled_together_for_as_many_epochs():
    """Clips of several tasks, told by their numbers, meet in each batch."""
    learner = small_learner(Multitask(), batch_size=9, epochs=3)
    seen, identities = watched(learner), learner.loading.identity(torch.arange(96))
    train(learner, Noise(tasks=3), joint=True)
    assert learner.steps == (3 * 16 // 9) * 3 == len(seen)
    numbers = [(batch.index[:, None] == identities).nonzero()[:, 1] for batch, _ in seen]
    assert all(len(batch) == 9 and len((batch // 32).unique()) > 1 for batch in numbers)


def make_run(folder):
    """With ER, on shuffled tasks a control for what replay alone does."""
    strategies, learner = [Multitask(), small(ER)], {"epochs": 1, "batch_size": 4, "lr": 1e-3}
    return Run(scenario=Noise(), backbone=small_backbone(), strategies=strategies, folder=folder, learner=learner)


def test_a_run_trains_once_and_evaluates_every_task(tmp_path):
    told = make_run(tmp_path / "run").dry_run()
    assert (told["clips"], told["steps"]) == ("all tasks 32", "8 of 4 clips")
    results = make_run(tmp_path / "run").train()
    assert results["tasks"] == ["task_0", "task_1"]
    assert results["tasks_done"] == 1
    measures = results["metrics"]["retrieval"]["measures"]
    for measure in measures.values():
        assert len(measure["matrix"]) == 1
        assert measure["average"] == [sum(measure["matrix"][0]) / 2]
        assert measure["forgetting"] == measure["forgetting_with_last"] == [None]
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (manifest["joint"], manifest["clips"]) == (True, [32])
    assert make_run(tmp_path / "run").train(resume=True)["metrics"] == results["metrics"], "nothing is left to train"
    assert run_markdown(results).splitlines()[4].startswith("| all tasks |")
