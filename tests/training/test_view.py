"""What a strategy is handed: nothing in it knows a label, a task, a boundary, a data set or the learner."""

from dataclasses import dataclass

import pytest
import torch
from helpers.toys import small_learner, train
from torch.utils.data import DataLoader, Dataset

from avcl.compat import DatasetExperience
from avcl.strategy import Strategy
from avcl.training.learner import Learner
from avcl.training.loading import Loading

WAYS = {
    "the item's task": lambda learner: learner.mbatch[0]["task"],
    "the item's label": lambda learner: learner.mbatch[0]["label"],
    "the clip's task": lambda learner: learner.batch.task,
    "the clip's label": lambda learner: learner.current.label,
    "the clip's fields": lambda learner: vars(learner.batch)["label"],
    "tasks so far": lambda learner: learner.tasks_done,
    "batches of this task": lambda learner: learner.batches_done,
    "batches of an epoch": lambda learner: learner.batches_per_epoch,
    "the clock's experiences": lambda learner: learner.clock.train_exp_counter,
    "the experience": lambda learner: learner.experience.current_experience,
    "its data set": lambda learner: learner.experience.dataset,
    "the adapted data set": lambda learner: learner.adapted_dataset,
    "the loader": lambda learner: learner.dataloader,
    "its settings": lambda learner: learner.loading,
    "a plugin of Avalanche's": lambda learner: learner.plugins.append,
    "the evaluator": lambda learner: learner.evaluator,
    "the hook between batches": lambda learner: learner.between_batches,
    "the account of bad clips": lambda learner: learner.bad,
    "the learner behind the view": lambda learner: learner.view,
    "the other strategies": lambda learner: learner.strategies,
}


@dataclass(kw_only=True)
class Probe(Strategy):
    """Asks in every verb, and keeps what it was told and what it was handed."""

    name = "probe"

    def begin(self, learner):
        self._told, self._handed, self._index = {}, learner, []

    def ask(self, learner):
        for way, question in WAYS.items():
            try:
                self._told[way] = question(learner)
            except (AttributeError, KeyError):
                self._told.setdefault(way, None)

    def prepare(self, learner):
        self.ask(learner)
        self._index += learner.batch.index.tolist()

    def penalty(self, learner):
        self.ask(learner)
        return {}

    def observe(self, learner):
        self.ask(learner)


@pytest.fixture(scope="module")
def probe():
    """A probe that saw two tasks, twice each."""
    strategy = Probe()
    train(small_learner(strategy))
    return strategy


@pytest.mark.parametrize("way", WAYS)
def test_no_way_tells(probe, way):
    assert probe._told[way] is None


def test_nothing_that_it_holds_leads_to_the_stream(probe):
    seen, found, todo = set(), [], [probe._handed]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Learner | DataLoader | Dataset | DatasetExperience | Loading):
            found.append(type(thing).__name__)
        elif isinstance(thing, dict):
            todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, list | tuple | set):
            todo += thing
        elif not isinstance(thing, torch.Tensor | type):
            todo += vars(thing).values() if hasattr(thing, "__dict__") else []
    assert not found
    assert len(seen) > 100


def test_a_clip_keeps_an_identity_that_says_nothing_of_its_place(probe):
    first = torch.tensor(sorted(set(probe._index[:32]), key=probe._index.index))
    assert len(set(probe._index)) == 32 and len(first) == 16, "the same clips in both epochs of a task"
    loading = Loading(4, 4, 1, seed=3)
    numbers = torch.arange(4096)
    mixed = loading.identity(numbers)
    assert mixed.unique().numel() == 4096
    assert torch.equal(mixed, loading.identity(numbers))
    assert not torch.equal(mixed, Loading(4, 4, 1, seed=4).identity(numbers))
    ranks = mixed.argsort().argsort().double()
    assert torch.corrcoef(torch.stack([ranks, numbers.double()]))[0, 1].abs() < 0.05
    assert ((mixed & 1).double().mean() - 0.5).abs() < 0.04


def test_who_declares_boundaries_sees_labels_and_tasks():
    @dataclass(kw_only=True)
    class Sees(Probe):
        name = "sees"
        needs_boundaries, ends = True, 0

        def end_task(self, learner):
            self.ends += 1

    strategy = Sees()
    train(small_learner(strategy, epochs=1))
    assert strategy._told["the clip's task"].unique().tolist() == [1]
    assert strategy.ends == 2
    assert strategy._told["tasks so far"] is None
