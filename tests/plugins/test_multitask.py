"""Multitask: one task of all clips, evaluated task by task."""

import json

import pytest
import torch
from helpers.toys import train
from rich.console import Console

from avcl.compat import BaseSGDPlugin
from avcl.experiment.run import Run
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.plugins.multitask import Multitask
from avcl.report.tables import matrix_markdown, matrix_table
from avcl.testing.toys import Noise, small_backbone


def test_M1_the_union_of_all_clips_once_each():
    benchmark = Noise(tasks=3).benchmark(joint=True)
    assert len(benchmark.train_stream) == 1
    data = benchmark.train_stream[0].dataset
    numbers = [data[i]["index"] for i in range(len(data))]
    assert len(numbers) == len(set(numbers)) == 3 * 16
    assert [len(experience.dataset) for experience in benchmark.eval_stream] == [16, 16, 16]


def test_M2_of_one_task_it_is_finetune_bit_for_bit(make_learner):
    one = Noise(tasks=1)
    joint, plain = (make_learner(strategy, torch.float64) for strategy in (Multitask(), Finetune()))
    assert torch.equal(train(joint, one, joint=True), train(plain, one))


def test_M3_shuffled_together_for_as_many_epochs():
    """Clips of several tasks meet in each batch."""
    learner = small_learner(Multitask(), batch_size=9, epochs=3)
    seen = watched(learner)
    train(learner, Noise(tasks=3), joint=True)
    assert learner.steps == (3 * 16 // 9) * 3 == len(seen)
    assert min(len(batch.task.unique()) for batch, _ in seen) > 1


def make_run(folder, *strategies):
    return Run(
        scenario=Noise(),
        backbone=small_backbone(),
        strategies=strategies,
        folder=folder,
        learner={"epochs": 1, "batch_size": 4, "lr": 1e-3},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "joint", Multitask())
    return run, run.train()


def test_a_run_trains_once_and_evaluates_every_task(finished):
    run, results = finished
    assert results["tasks"] == ["task_0", "task_1"]
    assert results["tasks_done"] == 1
    for measure in results["metrics"]["retrieval"]["measures"].values():
        assert len(measure["matrix"]) == 1
        assert measure["average"] == [sum(measure["matrix"][0]) / 2]
        assert measure["forgetting"] == measure["forgetting_with_last"] == [None]
    manifest = json.loads((run.folder / "run.json").read_text())
    assert manifest["joint"] is True
    assert manifest["clips"] == [32]


def test_tables_say_what_was_trained_on(finished):
    _, results = finished
    measure = results["metrics"]["retrieval"]["measures"]["a2v/R@10"]
    assert matrix_markdown(results["tasks"], measure).splitlines()[2].startswith("| all tasks |")
    console = Console(width=100)
    with console.capture() as capture:
        console.print(matrix_table("R@10", results["tasks"], measure))
    assert "all tasks" in capture.get()


def test_a_finished_run_has_nothing_left_to_train(finished):
    run, results = finished
    again = make_run(run.folder, Multitask())
    assert again.train(resume=True)["metrics"] == results["metrics"]


def test_a_dry_run_knows_its_clips(tmp_path):
    told = make_run(tmp_path, Multitask()).dry_run()
    assert told["clips"] == "all tasks 32"
    assert told["steps"] == "8 of 4 clips"


def test_others_may_join_it(tmp_path, small_memory):
    """ER on shuffled tasks: a control for what replay alone does."""
    run = make_run(tmp_path / "run", Multitask(), ER(memory=small_memory()))
    assert len(run.train()["metrics"]["retrieval"]["measures"]["a2v/R@1"]["matrix"]) == 1
