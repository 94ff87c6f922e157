"""The frame: settings by scenario, nothing disturbed, errors that name the evaluation, and any of them as a metric."""

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from avcl import Evaluation, Scores
from avcl.errors import PluginError, SettingsError, UserError
from avcl.evaluation import metrics
from avcl.evaluation.classification import Classification
from avcl.evaluation.metric import EvaluationMetric
from avcl.evaluation.probes import Probe
from avcl.evaluation.protocol import Frozen, evaluated
from avcl.experiment.picking import picked
from avcl.testing import Noise, check_metric, small_backbone
from avcl.testing.promises import global_state, same


@dataclass(kw_only=True)
class Draws(Evaluation):
    """Scores what it draws."""

    name: ClassVar[str] = "draws"
    presets: ClassVar = {"noise": {"size": 3}}
    suits: ClassVar[tuple[str, ...]] = ("ave", "synthetic")

    size: int = 1

    def evaluate(self, model):
        drawn = torch.rand(self.size).sum() + np.random.rand() + random.random()
        return Scores(scores={"drawn": float(drawn), "rank": 2.0}, clips=1, lower_is_better=frozenset({"rank"}))


@pytest.fixture
def model():
    return Frozen(backbone=small_backbone(), scenario=Noise(clips_per_task=8), seed=4)


def test_settings_are_given_then_of_the_scenario_then_defaults():
    assert Draws.for_scenario(Noise()).size == 3
    assert Draws.for_scenario(Noise(), {"size": 5}).size == 5
    assert Draws().size == 1
    with pytest.raises(SettingsError, match=r"^draws\.siez: unknown setting; did you mean 'size'\?$"):
        Draws.for_scenario(Noise(), {"siez": 5}, "draws")


def test_nothing_is_disturbed_and_the_seed_decides(model):
    model.backbone.train()
    model.backbone.norm.eval()
    before = global_state()
    one, two = (evaluated(Draws(), model) for _ in range(2))
    assert one.scores == two.scores
    assert same(global_state(), before)
    assert (model.backbone.training, model.backbone.norm.training) == (True, False)
    assert one.about() == {
        "scores": one.scores,
        "chance": {},
        "higher_is_better": {"drawn": True, "rank": False},
        "clips": 1,
    }


def test_it_evaluates_in_evaluation_mode(model):
    class Mode(Draws):
        def evaluate(self, model):
            assert not model.backbone.training
            return super().evaluate(model)

    model.backbone.train()
    evaluated(Mode(), model)


def test_a_score_that_is_no_number_is_an_error(model):
    class Nan(Draws):
        def evaluate(self, model):
            return Scores(scores={"accuracy": float("nan")}, clips=1)

    with pytest.raises(UserError, match=r"^draws: accuracy is nan; are the weights finite\?$"):
        evaluated(Nan(), model)


def test_one_that_fails_is_named(model):
    class Fails(Draws):
        def evaluate(self, model):
            raise ValueError("two\nlines")

    told = r"^evaluation 'draws' \(class .*Fails, module .*\) failed in evaluate: ValueError: two lines$"
    with pytest.raises(PluginError, match=told):
        evaluated(Fails(), model)


def test_a_scenario_that_lacks_something_is_told_which_have_it():
    assert str(Draws().unsuited(Noise(), "event in time")) == (
        "draws: clips of scenario 'noise' have no event in time; 'ave' and 'synthetic' do: name one with --config"
    )


# ---- as a metric ---------------------------------------------------------------------------------------


def test_as_a_metric_it_keeps_every_promise():
    scenario = Noise(clips_per_task=6)
    check_metric(lambda: EvaluationMetric(Classification(epochs=1, views=1, warmup=0), scenario))


class Learner:
    """What the metric reads of a learner."""

    def __init__(self, tasks_done=1, batches_done=0):
        self.backbone, self.device, self.seed = small_backbone(), torch.device("cpu"), 4
        self.tasks_done, self.batches_done = tasks_done, batches_done
        self.clock, self.loading = SimpleNamespace(train_iterations=7), SimpleNamespace(workers=0)
        self.named_modules = lambda: iter(())


def test_it_is_scored_at_task_ends_only(model):
    metric = EvaluationMetric(Draws(), model.scenario)
    assert metric.after_eval(Learner(batches_done=3)) == metric.after_eval(Learner(tasks_done=0)) == []
    values = metric.after_eval(Learner())
    found = evaluated(Draws(), model)
    assert [(value.name, value.value, value.x_plot) for value in values] == [
        ("eval/draws/drawn", found.scores["drawn"], 7),
        ("eval/draws/rank", 2.0, 7),
    ]
    assert metric.results() == {"settings": {"size": 1}, "after_tasks": [found.about()]}
    resumed = EvaluationMetric(Draws(), model.scenario)
    resumed.load_state_dict(metric.state_dict())
    assert resumed.results() == metric.results()


def test_a_run_file_picks_it_by_name_with_settings():
    made = list(metrics(SimpleNamespace(scenario=Noise())))
    assert {"classification", "knn", "linear_probe", "event_localization", "retrieval_finetuned"} <= set(map(str, made))
    assert "retrieval" not in set(map(str, made)), "a metric of this name is there already"
    assert picked(made, None, "metrics") == []
    (metric,) = picked(made, [{"name": "classification", "epochs": 3}], "metrics")
    assert metric.component.settings() == Classification(epochs=3).settings()
    with pytest.raises(SettingsError, match=r"^metrics\.0\.epohcs: unknown setting; did you mean 'epochs'\?$"):
        picked(made, [{"name": "classification", "epohcs": 3}], "metrics")


def test_a_probe_needs_two_classes_and_some_of_them_to_evaluate_on():
    class Ones(Probe):
        name = "ones"

    one = Frozen(backbone=small_backbone(), scenario=Noise(tasks=1, clips_per_task=4))
    with pytest.raises(UserError, match=r"^ones: clips of scenario 'noise' have no two classes at least$"):
        Ones().evaluate(one)
    with pytest.raises(UserError, match=r"^classification: clips of scenario 'noise' have no two classes at least$"):
        Classification(epochs=1, views=1).evaluate(one)
