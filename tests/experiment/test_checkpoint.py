"""Stop anywhere, go on as if nothing had happened."""

from dataclasses import dataclass

import pytest
import torch

from avcl.errors import UserError
from avcl.experiment import checkpoint
from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.testing.toys import Noise


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def train(learner, scenario):
    for number, experience in enumerate(scenario.benchmark().train_stream):
        if number >= learner.tasks_done:
            learner.train(experience)
    return weights(learner)


@pytest.mark.parametrize("make", [Finetune, ER, DERpp])
@pytest.mark.parametrize("stop", [1, 5, 8, 11])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_weights(make_learner, tmp_path, make, stop, accumulate):
    scenario = Noise(tasks=2)

    def learner():
        strategy = make() if make is Finetune else make(memory=Memory(capacity=8))
        return make_learner(strategy, accumulate=accumulate, warmup=3)

    whole = learner()
    expected = train(whole, scenario)

    stopped = learner()

    def stop_there(learner):
        if learner.clock.train_iterations == stop:
            checkpoint.save(tmp_path / "state.pt", learner.state_dict())
            raise KeyboardInterrupt

    stopped.between_batches = stop_there
    with pytest.raises(KeyboardInterrupt):
        train(stopped, scenario)

    resumed = learner()
    resumed.load_state_dict(checkpoint.load(tmp_path / "state.pt"))
    assert torch.equal(train(resumed, scenario), expected)
    assert resumed.steps == whole.steps
    assert resumed.clock.train_iterations == whole.clock.train_iterations


@dataclass(kw_only=True)
class KeepsAList(Strategy):
    """Makes state that no checkpoint can hold."""

    name = "keeps-a-list"

    def begin(self, learner):
        self.past = [1, 2]


def test_state_that_would_be_lost_is_refused(make_learner):
    with pytest.raises(UserError, match=r"keeps-a-list.past: a list cannot be saved; keep modules, memories"):
        make_learner(KeepsAList())


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"step": 1})

    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
