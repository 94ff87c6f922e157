"""TensorBoard: the answer first, all tasks of a measure in one chart, settings; no folder but the run's own."""

import json
import re

import pytest
from helpers.toys import NoiseWithTruth, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from avcl.experiment.board import flat, layout
from avcl.experiment.run import Run
from avcl.plugins.stella import Stella
from avcl.report.matrix import matrix_figure
from avcl.testing.toys import small_backbone

SETTINGS = {"seed": 3, "strategy": {"name": "stella", "heads": 4, "chunk": None}, "learner": {"betas": [0.9, 0.99]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stella"
    results = Run(
        scenario=NoiseWithTruth(),
        backbone=small_backbone(seed=0),
        strategies=[small(Stella, dtype="float32")],
        folder=folder,
        learner={"epochs": 1, "batch_size": 4, "lr": 1e-3},
        evaluate_every=3,
        settings=SETTINGS,
    ).train()
    events = EventAccumulator(str(folder))
    events.Reload()
    return folder, results, events


def test_the_first_group_is_the_answer(finished):
    folder, results, events = finished
    tags = events.Tags()
    groups = sorted({tag.partition("/")[0] for tag in tags["scalars"] + tags["images"]})
    assert groups == ["continual", "eval", "pictures", "train"]
    measures = results["metrics"]["retrieval"]["measures"]
    for name in ("average", "forgetting", "learning_accuracy"):
        ours = [measures[f"{direction}/R@mean"][name] for direction in ("a2v", "v2a")]
        expected = [(a + v) / 2 for a, v in zip(*ours, strict=True) if a is not None]
        found = events.Scalars(f"continual/{name}")
        assert [event.value for event in found] == pytest.approx(expected)
        assert [event.step for event in found] == [4, 8][-len(found) :], "at the ends of tasks alone"
    assert [event.step for event in events.Images("continual/task_matrix")] == [4, 8]
    assert not [path for path in folder.iterdir() if path.is_dir() and path.name not in ("pictures", "checkpoint")]


def test_every_chart_finds_its_tags(finished):
    """All but what a run of this kind does not have; every task of a measure is in one chart."""
    _, _, events = finished
    held = layout_pb2.Layout()
    config = events.Tensors("custom_scalars__config__")[0].tensor_proto
    held.ParseFromString(tensor_util.make_ndarray(config).item())
    assert [category.title for category in held.category] == list(layout(("task_0", "task_1")))
    tags = events.Tags()["scalars"]
    charts = {chart.title: list(chart.multiline.tag) for category in held.category for chart in category.chart}
    for title, patterns in charts.items():
        for pattern in patterns:
            assert [tag for tag in tags if re.match(pattern, tag)], f"{title}: {pattern}"
    assert charts["a2v R@10"] == [f"^{re.escape('eval/a2v/R@10/' + name)}$" for name in ("task_0", "task_1", "chance")]


def test_settings_are_text_and_hyper_parameters(finished):
    _, _, events = finished
    text = tensor_util.make_ndarray(events.Tensors("settings/text_summary")[0].tensor_proto)[0].decode()
    assert "    strategy:\n      name: stella" in text.replace("          ", "      ")
    held = plugin_data_pb2.HParamsPluginData()
    held.ParseFromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    found = {key: value.string_value or value.number_value for key, value in held.session_start_info.hparams.items()}
    assert found == {
        "seed": 3,
        "strategy.name": "stella",
        "strategy.heads": 4,
        "strategy.chunk": "None",
        "learner.betas": "[0.9, 0.99]",
    }
    held.ParseFromString(events.PluginTagToContent("hparams")["_hparams_/experiment"])
    metrics = {info.name.tag for info in held.experiment.metric_infos}
    assert metrics == {"continual/average", "continual/forgetting"} <= set(events.Tags()["scalars"])
    assert "_hparams_/session_end_info" in events.PluginTagToContent("hparams")


def test_few_tags(finished):
    _, _, events = finished
    tags = events.Tags()["scalars"]
    assert not [tag for tag in tags if tag.endswith(("forgetting_with_last", "recall_chance"))]


def test_settings_by_their_whole_key():
    assert dict(flat({"a": {"b": 1, "c": {}}, "d": True})) == {"a.b": 1, "a.c": "{}", "d": True}


@pytest.mark.parametrize("after", [("a",), ("a", "b"), ("all tasks",)])
def test_the_matrix_has_a_row_after_every_part(after):
    matrices = {"one": [[1.4, 50.0]] * len(after), "two": [[0.0, 0.0]] * len(after)}
    panel = matrix_figure(matrices, ("a", "b"), after, "title").axes[0]
    assert [text.get_text() for text in panel.texts] == ["1", "50"] * len(after)
    assert [text.get_text() for text in panel.get_yticklabels()] == [f"after {part}" for part in after]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["a", "b"]
    framed = [(patch.get_x(), patch.get_y()) for patch in panel.patches]
    assert framed == [(i - 0.47, i - 0.47) for i in range(len(after)) if after[0] == "a"]


def test_costs_are_in_results_and_times_beside_them(finished):
    folder, results, _ = finished
    assert results["metrics"]["efficiency"]["forward_passes_per_step"] == 2
    times = json.loads((folder / "efficiency.json").read_text())
    assert times.keys() == {"device", "clips", "training_seconds", "clips_per_second", "peak_memory_mib"}
    assert times["clips"] == 32 and times["clips_per_second"] > 0
    assert "seconds" not in json.dumps(results)
