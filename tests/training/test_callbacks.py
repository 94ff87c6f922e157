"""Early stopping and learning-rate schedules: what they do, and that a resumed learner goes on alike."""

from copy import deepcopy

import pytest
import torch
from helpers.toys import train, weights
from timm.scheduler import CosineLRScheduler

from avcl.compat import quiet_evaluator
from avcl.errors import SettingsError, UserError
from avcl.metrics import Retrieval
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import Noise
from avcl.training.callbacks import Callback, EarlyStopping, LrSchedule, find_callback


def rates(learner):
    """The learning rate of every step, recorded as training goes on."""
    seen, step = [], learner.optimizer_step
    learner.optimizer_step = lambda: seen.append(learner.optimizer.param_groups[0]["lr"]) or step()
    return seen


def test_the_schedule_is_timms_over_the_whole_stream(make_learner):
    learner = make_learner(Finetune(), plugins=[LrSchedule(steps=8, warmup=2, min_lr=1e-4)], epochs=1)
    seen = rates(learner)
    train(learner)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    timms = CosineLRScheduler(optimizer, 8, lr_min=1e-4, warmup_t=2, t_in_epochs=False)
    expected = []
    for step in range(8):
        timms.step_update(step)
        expected.append(optimizer.param_groups[0]["lr"])
    assert seen == expected
    assert (seen[0], seen[1], seen[2] < 1e-3, min(seen[2:]) > 1e-4) == (0, 5e-4, True, True)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "step", "decay_every": 3, "decay_rate": 0.5}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        (
            {"schedule": "multistep", "milestones": [2, 5], "decay_rate": 0.1},
            [1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01],
        ),
        ({"schedule": "poly", "decay_rate": 1.0}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
    ],
)
def test_the_other_schedules(make_learner, settings, expected):
    learner = make_learner(Finetune(), plugins=[LrSchedule(steps=8, **settings)], epochs=1, lr=1.0, clip_norm=1e-9)
    seen = rates(learner)
    train(learner)
    assert seen == pytest.approx(expected)


def test_early_stopping_ends_the_task_and_not_the_stream(make_learner):
    """At a learning rate of 0 nothing improves: one evaluation sets the mark, two wait, and the next task follows."""
    learner = made(make_learner, lr=0.0)
    train(learner)
    assert (learner.tasks_done, learner.steps, learner.clock.train_iterations) == (2, 6, 6)


@pytest.mark.parametrize(("score", "steps"), [("task", 8 + 3), ("average", 8 + 8)])
def test_early_stopping_watches_the_task_or_the_average(make_learner, score, steps):
    """The first task's score rises with every evaluation, the second's never does."""
    learner = made(make_learner, lr=0.0, score=score)
    retrieval = learner.evaluator.metrics[0]
    result, count = retrieval.result, iter(range(100))
    retrieval.result = lambda: {**result(), "v2a/median_rank": [-float(next(count)), 5.0]}
    train(learner)
    assert learner.steps == steps


def test_early_stopping_lets_a_task_go_on_that_improves(make_learner):
    learner = made(make_learner, lr=0.0)
    retrieval = learner.evaluator.metrics[0]
    result, count = retrieval.result, iter(range(100))
    retrieval.result = lambda: {**result(), "v2a/median_rank": [-float(next(count))] * 2}
    train(learner)
    assert learner.steps == 16


def made(make_learner, score="task", **settings):
    """A learner that evaluates after every batch, and stops a task after two evaluations without improvement."""
    callback = EarlyStopping(patience=2, measure="v2a/median_rank", score=score)
    learner = make_learner(Finetune(), plugins=[callback], evaluator=quiet_evaluator(Retrieval()), **settings)
    stream = Noise().benchmark().eval_stream
    learner.between_batches = lambda _: None if learner.task_is_over else learner.eval(stream)
    return learner


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_resumed_learner_goes_on_alike(make_learner, at):
    """Saved between two batches, also right where early stopping has struck; retrieval's state is the run's."""

    def learner_with_both():
        learner = made(make_learner, lr=1e-9)
        learner.plugins.append(LrSchedule(steps=16, warmup=3))
        return learner

    whole, saved = learner_with_both(), {}
    evaluate = whole.between_batches

    def pause(learner):
        evaluate(learner)
        if learner.clock.train_iterations == at:
            saved.update(learner.state_dict(), metrics=learner.evaluator.metrics[0].state_dict())
            saved["backbone"] = {key: value.clone() for key, value in saved["backbone"].items()}
            saved["update"] = deepcopy(saved["update"])

    whole.between_batches = pause
    train(whole)
    assert saved["callbacks"][0].keys() == {"best", "waited"}
    resumed = learner_with_both()
    resumed.load_state_dict(saved)
    resumed.evaluator.metrics[0].load_state_dict(saved["metrics"])
    for experience in Noise().benchmark().train_stream[resumed.tasks_done :]:
        resumed.train(experience)
    assert (resumed.steps, resumed.tasks_done) == (whole.steps, 2)
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.parametrize(
    ("cls", "settings", "told"),
    [
        (EarlyStopping, {"patience": 0}, "patience: invalid value 0: must be greater than 0"),
        (EarlyStopping, {"measure": "R@1"}, "measure: invalid value 'R@1': must be 'a2v/R@1'"),
        (LrSchedule, {"schedule": "multistep"}, "milestones: invalid value .*: must be a list of optimizer steps"),
        (LrSchedule, {"steps": 4, "warmup": 4}, "warmup: invalid value 4: must be less than steps, 4"),
    ],
)
def test_wrong_settings(cls, settings, told):
    with pytest.raises(SettingsError, match=f"^{told}"):
        cls(**settings)


def test_what_a_schedule_cannot_do(make_learner):
    with pytest.raises(UserError, match=r"^lr-schedule.steps: required without a run"):
        train(make_learner(Finetune(), plugins=[LrSchedule()]))
    with pytest.raises(UserError, match=r"^learner.warmup: must be 0 beside lr-schedule"):
        train(make_learner(Finetune(), plugins=[LrSchedule(steps=8)], warmup=2))
    with pytest.raises(UserError, match=r"^early-stopping: watches the metric 'retrieval', which is missing"):
        learner = make_learner(Finetune(), plugins=[EarlyStopping()])
        learner.between_batches = lambda _: learner.eval(Noise().benchmark().eval_stream)
        train(learner)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("early-stoping", "unknown callback 'early-stoping'; did you mean 'early-stopping'\\?"),
        ("no_such_module:Class", r"invalid value 'no_such_module:Class': must be module:Class"),
        ("torch.nn:Linear", r"invalid value 'torch.nn:Linear': must be a subclass of avcl.training.callbacks.Callback"),
    ],
)
def test_an_unknown_callback(name, told):
    with pytest.raises(UserError, match=f"^{told}"):
        find_callback(name)


def test_a_callback_of_anyone_is_found_by_its_address():
    assert find_callback("avcl.training.callbacks:Callback") is Callback
    assert Callback().address == "avcl.training.callbacks:Callback"
    assert EarlyStopping().address == "early-stopping"
