"""Classification and probes on features that are made by hand, and what they do with windows and views."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from avcl.errors import UserError
from avcl.evaluation import classification, probes
from avcl.evaluation.classification import Classification, classifier
from avcl.evaluation.features import Features
from avcl.evaluation.knn import NearestNeighbours
from avcl.evaluation.linear_probe import LinearProbe
from avcl.evaluation.protocol import Frozen, evaluated
from avcl.scenario import window
from avcl.testing import Noise, small_backbone


def test_neighbours_vote_by_similarity():
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    classes = np.array([7, 3, 3, 5])
    asked = np.array([[1.0, 0.1], [0.1, 1.0], [1.0, 0.9]])

    def predict(**settings):
        return NearestNeighbours(**settings).predict(values, classes, asked).tolist()

    assert predict(neighbours=1) == [7, 3, 7]
    # the third asks at 42 degrees: one clip at 42 against two at 48, whose votes are exp(cos / t) each
    near, far = 1 / math.hypot(1, 0.9), 0.9 / math.hypot(1, 0.9)
    assert (near - far) / 0.2 < math.log(2) < (near - far) / 0.07
    assert predict(neighbours=3, temperature=0.2) == [7, 3, 3]
    assert predict(neighbours=3) == [7, 3, 7], "a colder vote listens to the nearest"
    with pytest.raises(UserError, match=r"^knn\.neighbours: 9 is more than the 4 training clips$"):
        predict(neighbours=9)


def test_the_linear_probe_separates_what_a_line_separates():
    draw = np.random.default_rng(0)
    values = draw.standard_normal((60, 3)) * [1000, 1, 0.001]  # standardized, or the third would not count
    classes = (values[:, 2] > 0).astype(int)
    found = LinearProbe().predict(values, classes, np.array([[0, 0, 0.002], [0, 0, -0.002]]))
    assert found.tolist() == [1, 0]


class Points(probes.Probe):
    """Says of every clip that it is of class 4."""

    name = "points"

    def predict(self, values, classes, asked):
        self.seen = values, classes, asked
        return np.full(len(asked), 4)


def test_a_probe_counts_clips_of_known_classes_only(monkeypatch):
    def table(label, task):
        values = torch.arange(2.0 * len(label)).reshape(-1, 2)
        return Features(values, torch.tensor(label), torch.tensor(task), torch.arange(len(label)))

    told = iter([table([2, 4, 4], [0, 0, 1]), table([4, 2, 4, 9], [0, 0, 1, 1])])
    monkeypatch.setattr(probes, "features", lambda *args, **settings: next(told))
    probe = Points()
    found = probe.evaluate(Frozen(backbone=small_backbone(), scenario=Noise()))
    assert found.scores == pytest.approx({"accuracy": 200 / 3})
    assert (found.chance, found.clips) == ({"accuracy": 50.0}, 3)
    assert found.details["per_task"] == {"accuracy": {"task_0": 50.0, "task_1": 100.0}}
    assert probe.seen[2].tolist() == [[0, 1], [2, 3], [4, 5]]


# ---- classification --------------------------------------------------------------------------------------


@dataclasses.dataclass
class Bright(Dataset):
    """Clips as bright as their class, but in the window ``odd``, where all are as dark as the first class."""

    split: str
    task: int
    odd: int = -1

    def __len__(self):
        return 12

    def __getitem__(self, i):
        shape, label = Noise().shape.tensors, 3 * self.task + i % 2
        here = window()
        level = 0.0 if here and here[0] == self.odd else float(label)
        noise = torch.randn(shape["mel"], generator=torch.Generator().manual_seed(i + 100 * (self.split == "eval")))
        return {
            "frames": torch.full(shape["frames"], level),
            "mel": 0.1 * noise + level,
            "index": 100 * self.task + 50 * (self.split == "eval") + i,
            "label": label,
            "task": self.task,
        }


class Brightness(Noise):
    odd = -1

    def clips(self, task, split):
        return Bright(split, task, self.odd)

    windowed = True


def model(odd=-1, **settings):
    scenario = Brightness()
    scenario.odd = odd
    return Frozen(backbone=small_backbone(), scenario=scenario, **settings)


FAST = {"epochs": 8, "batch_size": 6, "lr": 1e-2, "windows": 2}


def test_it_learns_what_is_there_to_be_learned_whatever_the_batch():
    one = evaluated(Classification(**FAST), model())
    two = evaluated(Classification(**FAST), model(batch_size=5, workers=2))
    assert one.scores == two.scores
    assert one.scores["top1"] > 80
    assert one.chance == {"top1": 25.0, "top5": 100.0}
    assert (one.clips, one.details["classes"], one.details["training_clips"]) == (24, 4, 24)
    assert one.scores["top1"] == pytest.approx(max(one.details["epochs"]))
    tasks = one.details["per_task"]["top1"]
    assert one.scores["top1"] == pytest.approx((tasks["task_0"] + tasks["task_1"]) / 2)


def test_predictions_of_all_windows_count(monkeypatch):
    """Probabilities are averaged: one window says (.9, .1), the other (.2, .8)."""
    said = {0: torch.tensor([[0.9, 0.1]]).log(), 1: torch.tensor([[0.2, 0.8]]).log()}
    asked = []

    def features(model, clips, kind, view=None, numbers=None):
        asked.append(view)
        values = torch.zeros(2, 1) if view.epoch is not None else torch.full((1, 1), float((view.window or (0,))[0]))
        label = torch.tensor([5, 8] if len(values) == 2 else [5])
        return Features(values, label, torch.zeros(len(values)).long(), torch.arange(len(values)))

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, values):
            return torch.cat([said[int(value)] for value in values]) * self.scale.detach() + 0 * self.scale

    monkeypatch.setattr(classification, "features", features)
    monkeypatch.setattr(classification, "classifier", lambda dim, classes: Told())
    found = Classification(epochs=2, windows=2, views=1).evaluate(model())
    assert found.scores == {"top1": 100.0, "top5": 100.0}  # (.55, .45)
    assert [view.window for view in asked[1:]] == [(0, 2), (1, 2)]
    said[1] = torch.tensor([[0.05, 0.95]]).log()
    assert Classification(epochs=2, windows=2, views=1).evaluate(model()).scores["top1"] == 0.0
    assert Classification(epochs=2, windows=1, views=1).evaluate(model()).scores["top1"] == 100.0


def test_epochs_have_views_of_their_own_or_take_turns(monkeypatch):
    seen, real = [], classification.features

    def features(model, clips, kind, view=None, numbers=None):
        seen.append(view.epoch)
        return real(model, clips, kind, view, numbers)

    monkeypatch.setattr(classification, "features", features)
    for views, expected in ((None, [0, 1, 2, 3]), (2, [0, 1]), (1, [0])):
        seen.clear()
        Classification(**FAST | {"epochs": 4}, views=views).evaluate(model())
        assert [epoch for epoch in seen if epoch is not None] == expected


def test_training_clips_can_be_fewer():
    found = evaluated(Classification(**FAST, train_clips=10), model())
    assert found.details["training_clips"] == 10


def test_the_head_is_the_authors():
    head = classifier(6, 3)
    kinds = [type(part).__name__ for part in head]
    assert kinds == ["Linear", "Tanh", "Linear", "LayerNorm", "GELU", "Linear"]
    assert [part.weight.shape for part in head if hasattr(part, "weight")] == [(6, 6), (6, 6), (6,), (3, 6)]
