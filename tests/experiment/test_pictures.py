"""The pictures of a run: one after every task, in the folder and in TensorBoard, and a run that never notices."""

import json

import pytest
from helpers.toys import NoiseWithTruth, small
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avcl.experiment.run import Run
from avcl.plugins.derpp import DERpp
from avcl.plugins.stella import Stella
from avcl.testing.toys import small_backbone
from avcl.training.saving import Saving


def make_run(folder, cls=Stella, **more):
    return Run(
        scenario=NoiseWithTruth(),
        backbone=small_backbone(seed=0),
        strategies=[small(cls, dtype="float32")],
        folder=folder,
        learner={"epochs": 1, "batch_size": 4, "lr": 1e-3},
        settings={"seed": 0},
        **more,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stella"
    make_run(folder).train()
    return folder


def test_a_picture_after_every_task_in_the_folder_and_in_tensorboard(finished):
    names = {path.name for path in (finished / "pictures").iterdir()}
    assert names == {"after_1_task_0.png", "after_2_task_1.png", "attention_after_2_task_1.png"}
    with Image.open(finished / "pictures" / "after_2_task_1.png") as image:
        assert min(image.size) > 400
    events = EventAccumulator(str(finished))
    events.Reload()
    assert {"pictures/selection", "pictures/attention"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Images("pictures/selection")] == [4, 8]
    tags = set(events.Tags()["scalars"])
    assert {"eval/selection/video/auc", "eval/selection/audio/recall", "eval/modality_gap/drift"} <= tags
    assert {"eval/attention/video", "eval/attention/audio"} <= tags


def test_training_is_the_same_without_pictures_and_selection_scores(finished, tmp_path):
    make_run(tmp_path / "plain", metrics=[{"name": "retrieval"}]).train()
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (finished, tmp_path / "plain"))
    assert all((ours[key] == theirs[key]).all() for key in ours)
    found, plain = (json.loads((f / "results.json").read_text())["metrics"] for f in (finished, tmp_path / "plain"))
    assert found["retrieval"] == plain["retrieval"]
    assert {"selection", "attention", "modality_gap"} <= found.keys()


def test_a_stopped_run_ends_with_the_same_results(finished, tmp_path, monkeypatch):
    save = Run._save

    def save_then_die(self, learner, evaluation_due=False):
        save(self, learner, evaluation_due)
        if learner.clock.train_iterations == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "_save", save_then_die)
    killed = make_run(tmp_path / "killed")
    killed.checkpoint = Saving(every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    monkeypatch.setattr(Run, "_save", save)
    make_run(tmp_path / "killed").train(resume=True)
    assert (tmp_path / "killed" / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    pictures = [folder / "pictures" / "attention_after_2_task_1.png" for folder in (finished, tmp_path / "killed")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


def test_fewer_clips_or_none(tmp_path):
    make_run(tmp_path / "one", metrics=[{"name": "pictures", "clips": 1}]).train()
    names = {path.name for path in (tmp_path / "one" / "pictures").iterdir()}
    assert names == {"after_1_task_0.png", "after_2_task_1.png"}, "attention was not picked"
    make_run(tmp_path / "all", cls=DERpp).train()
    assert not (tmp_path / "all" / "pictures").exists()
