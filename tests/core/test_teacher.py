"""A teacher is a mean of past weights: closed forms, no gradient, the same after a checkpoint."""

import pytest
import torch
from helpers.toys import clips, enter, fed, four, small_learner, step, weights

from avcl.backbones.weights import load_weights
from avcl.experiment.pretraining import pretrain
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.teacher import Teacher, view
from avcl.testing.toys import Noise, small_backbone


class Followed(Strategy):
    """Finetune with a teacher, and every weight there was."""

    name = "followed"

    def __init__(self, **settings):
        self._settings = settings

    def begin(self, learner):
        self.teacher = Teacher(learner.backbone, **self._settings)
        self._trail = [weights(learner.backbone)]

    def observe(self, learner):
        self.teacher.update(learner)
        if not learner.pending:
            self._trail.append(weights(learner.backbone))

    @property
    def trail(self):
        return torch.stack(self._trail)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        pytest.param({"decay": 0.999}, [1 / 7] * 7, id="C4 the plain mean of all weights while it warms up"),
        # a^k w_0 + (1 - a) sum_s a^(k-1-s) w_(s+1)
        pytest.param({"decay": 0.5}, [1 / 32, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2], id="C5 then a mean that forgets"),
        # 1 - 1 / (t + 1) reaches 0.75 at t = 3
        pytest.param({"decay": 0.75}, [0.75**3 / 4] * 4 + [0.75**2 / 4, 0.75 / 4, 1 / 4], id="both in a row"),
        pytest.param({"decay": 0.9, "update_probability": 0.0}, [1, 0, 0, 0], id="C3 it stays at the start"),
    ],
)
def test_it_is_a_mean_of_past_weights(settings, factors):
    strategy = Followed(**settings)
    fed(strategy, *(number % 8 for number in range(len(factors) - 1)))
    close(weights(strategy.teacher.backbone), torch.tensor(factors, dtype=torch.float64) @ strategy.trail)
    assert int(strategy.teacher.count) == len(factors) - 1


def test_its_update_probability():
    """Over 400 steps as many updates as a coin of 0.3 allows, and the count goes on in between."""
    learner = small_learner(Finetune())
    learner.update.pending = 0
    teacher = Teacher(learner.backbone, decay=0.5, update_probability=0.3)
    moves = 0
    for _ in range(400):
        with torch.no_grad():
            learner.backbone.norm.bias.add_(1.0)
        before = teacher.backbone.norm.bias.clone()
        teacher.update(learner)
        moves += not torch.equal(before, teacher.backbone.norm.bias)
    assert abs(moves - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5
    assert int(teacher.count) == 400


def test_C6_no_gradient_and_not_in_the_optimizer():
    strategy = Followed(decay=0.9)
    learner = fed(strategy, 0)
    assert learner.output.audio.requires_grad
    teacher = strategy.teacher
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in learner.backbone.parameters() if p.requires_grad}
    clip, masks = view(enter(learner, four(0)), slice(0, 4), shared=False)
    assert not teacher(clip, masks).loss.requires_grad
    assert not any(x.requires_grad for x in teacher.embed(masks.seen(clip)))


def test_it_waits_for_the_step_and_tells_its_distance():
    strategy = Followed(decay=0.999)
    learner = fed(strategy, 0, accumulate=2)
    assert int(strategy.teacher.count) == strategy.teacher.distance(learner) == 0
    step(learner, four(4))
    assert int(strategy.teacher.count) == 1
    found = weights(strategy.teacher.backbone)
    close(found, strategy.trail.mean(0))
    assert float(strategy.teacher.distance(learner)) == pytest.approx(float((strategy.trail[-1] - found).norm()))


def test_it_is_a_copy_that_follows_buffers_too():
    learner = small_learner(Finetune())
    learner.model.register_buffer("running", torch.zeros(2))
    teacher = Teacher(learner.backbone, decay=0.999)
    theirs = {p.data_ptr() for p in learner.backbone.parameters()}
    assert not theirs & {p.data_ptr() for p in teacher.parameters()}
    assert teacher.backbone.grid == learner.backbone.grid
    learner.model.running += 3
    learner.update.pending = 0
    teacher.update(learner)
    assert teacher.backbone.running.tolist() == [3, 3]


def test_the_view_is_the_students_own_or_a_new_one():
    learner = fed(Finetune())
    step(learner, clips(range(6)))
    before = learner.generators["mask"].get_state()
    clip, shared = view(learner, slice(4, None), shared=True)
    assert torch.equal(shared.audio, learner.masks.audio[4:])
    assert torch.equal(clip.index, learner.batch.index[4:])
    _, new = view(learner, slice(None), shared=False)
    assert not torch.equal(new.audio, learner.masks.audio)
    assert torch.equal(learner.generators["mask"].get_state(), before)


class WithMore(Noise):
    """Noise with clips to start from."""

    def pretraining_clips(self):
        return self.clips(7, "train")


def make_run(folder):
    return Run(
        scenario=WithMore(clips_per_task=4),
        backbone=small_backbone(),
        strategies=[CLSER(memory=Memory(capacity=4))],
        folder=folder,
        learner={"epochs": 1, "batch_size": 4},
    )


def test_pre_training_has_nothing_to_teach_it(tmp_path):
    pretrain(make_run(tmp_path / "run"), tmp_path / "start.safetensors")
    assert load_weights(tmp_path / "start.safetensors").states.keys() == {"backbone"}


def test_a_runs_weights_hold_the_teachers_too(tmp_path):
    run = make_run(tmp_path / "run")
    run.train()
    states = load_weights(tmp_path / "run" / "weights.safetensors").states
    assert states.keys() == {"backbone", "stable", "plastic"}
    assert int(states["stable"]["count"]) == 2
    assert states["plastic"].keys() == {"count", *(f"backbone.{key}" for key in states["backbone"])}
