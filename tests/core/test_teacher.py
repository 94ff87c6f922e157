"""A teacher is a mean of past weights: closed forms, no gradient, the same after a checkpoint."""

import copy

import pytest
import torch
from helpers.toys import clips, enter, step, weights

from avcl.backbones.weights import load_weights
from avcl.experiment import checkpoint
from avcl.experiment.pretraining import pretrain
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.cls_er import CLSER
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.teacher import Teacher, view
from avcl.testing.toys import Noise, small_backbone


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Followed(Strategy):
    """Finetune with a teacher, and every weight there was."""

    name = "followed"

    def __init__(self, **settings):
        self._settings = settings

    def begin(self, learner):
        self.teacher = Teacher(learner.backbone, **self._settings)
        self._trail = [flat(learner.backbone)]

    def observe(self, learner):
        self.teacher.update(learner)
        if not learner.pending:
            self._trail.append(flat(learner.backbone))

    @property
    def trail(self):
        return torch.stack(self._trail)


def follow(make_learner, steps, **settings):
    strategy = Followed(**settings)
    learner = make_learner(strategy, torch.float64)
    for number in range(steps):
        step(learner, clips(range(number % 8, number % 8 + 4)))
    return strategy, strategy.trail


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_C4_the_plain_mean_of_all_weights_while_it_warms_up(make_learner):
    strategy, trail = follow(make_learner, 9, decay=0.999)
    close(flat(strategy.teacher.backbone), trail.mean(0))


def test_C5_then_a_mean_that_forgets(make_learner):
    """With decay a = 1/2 the warm-up is over at once: a^k w_0 + (1 - a) sum_s a^(k-1-s) w_(s+1)."""
    strategy, trail = follow(make_learner, 7, decay=0.5)
    factors = torch.tensor([0.5**7, *(0.5 * 0.5 ** (6 - s) for s in range(7))], dtype=torch.float64)
    close(flat(strategy.teacher.backbone), factors @ trail)


def test_both_in_a_row(make_learner):
    strategy, trail = follow(make_learner, 9, decay=0.75)
    expected = trail[:4].mean(0)  # 1 - 1 / (t + 1) reaches 0.75 at t = 3
    for later in trail[4:]:
        expected = 0.75 * expected + 0.25 * later
    close(flat(strategy.teacher.backbone), expected)


def test_C3_an_update_probability_of_zero_stays_at_the_start(make_learner):
    strategy, trail = follow(make_learner, 5, decay=0.9, update_probability=0.0)
    assert torch.equal(flat(strategy.teacher.backbone), trail[0])
    assert int(strategy.teacher.count) == 5


def test_its_update_probability(make_learner):
    """Over 400 steps as many updates as a coin of 0.3 allows, and the count goes on in between."""
    learner = make_learner(Finetune())
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


def test_C6_no_gradient_and_not_in_the_optimizer(make_learner):
    strategy = Followed(decay=0.9)
    learner = make_learner(strategy, torch.float64)
    step(learner, clips(range(4)))
    assert learner.output.audio.requires_grad
    teacher = strategy.teacher
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in teacher.parameters()}
    assert len(weights(learner)) == sum(p.numel() for p in learner.backbone.parameters() if p.requires_grad)
    clip, masks = view(enter(learner, clips(range(4))), slice(0, 4), shared=False)
    assert not teacher(clip, masks).loss.requires_grad
    assert not any(x.requires_grad for x in teacher.embed(masks.seen(clip)))


def test_it_waits_for_the_step(make_learner):
    strategy = Followed(decay=0.999)
    learner = make_learner(strategy, torch.float64, accumulate=2)
    step(learner, clips(range(4)))
    assert int(strategy.teacher.count) == 0
    step(learner, clips(range(4, 8)))
    assert int(strategy.teacher.count) == 1
    close(flat(strategy.teacher.backbone), strategy.trail.mean(0))


def test_its_distance(make_learner):
    learner = make_learner(Finetune(), torch.float64)
    teacher = Teacher(learner.backbone, decay=0.9)
    assert teacher.distance(learner) == 0
    step(learner, clips(range(4)))
    moved = torch.linalg.vector_norm(flat(learner.backbone) - flat(teacher.backbone))
    assert float(teacher.distance(learner)) == pytest.approx(float(moved))


def test_it_is_a_copy_that_follows_buffers_too(make_learner):
    learner = make_learner(Finetune())
    learner.model.register_buffer("running", torch.zeros(2))
    teacher = Teacher(learner.backbone, decay=0.999)
    theirs = {p.data_ptr() for p in learner.backbone.parameters()}
    assert not theirs & {p.data_ptr() for p in teacher.parameters()}
    assert teacher.backbone.grid == learner.backbone.grid
    learner.model.running += 3
    learner.update.pending = 0
    teacher.update(learner)
    assert teacher.backbone.running.tolist() == [3, 3]


def test_a_checkpoint_holds_it_with_its_count(make_learner, tmp_path):
    strategy, _ = follow(make_learner, 3, decay=0.9)
    learner = make_learner(strategy_again := Followed(decay=0.9), torch.float64)
    state = {"strategies": [{"teacher": strategy.teacher.state_dict()}]}
    checkpoint.save(tmp_path / "state.pt", state)
    strategy_again.teacher.load_state_dict(checkpoint.load(tmp_path / "state.pt")["strategies"][0]["teacher"])
    assert int(strategy_again.teacher.count) == 3
    assert torch.equal(flat(strategy_again.teacher), flat(strategy.teacher))
    assert strategy_again.teacher.count.dtype is torch.long
    assert learner.dtype is torch.float64


def test_the_view_is_the_students_own_or_a_new_one(make_learner):
    learner = make_learner(Finetune(), torch.float64)
    step(learner, clips(range(6)))
    enter(learner, clips(range(6)))
    before = copy.deepcopy(learner.generators["mask"].get_state())
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
