"""What a method costs: passes as the hooks of test_cost.py count them, patches, bytes; and nothing left behind."""

import pytest
import torch
from helpers.toys import Passes as Hooks
from helpers.toys import small, small_learner

from avcl.compat import quiet_evaluator
from avcl.metrics.efficiency import ENTRANCES, Efficiency
from avcl.metrics.throughput import Throughput
from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.finetune import Finetune
from avcl.plugins.mir import MIR
from avcl.plugins.random_patches import RandomPatches
from avcl.plugins.stella import Stella
from avcl.testing.toys import Noise


def trained(cls, metric):
    """One task of 16 clips in two epochs of four steps, and an evaluation."""
    learner = small_learner(small(cls, dtype="float32"), evaluator=quiet_evaluator(metric))
    streams = Noise().benchmark()
    learner.train(streams.train_stream[0])
    learner.eval(streams.eval_stream)
    return learner


@pytest.mark.parametrize(
    ("cls", "passes", "clips"),
    [
        (Finetune, [1] * 8, [4] * 8),
        (ER, [1] * 8, [4, *[8] * 7]),
        (DERpp, [1] * 8, [4, *[8] * 7]),
        (RandomPatches, [1] * 8, [4, *[8] * 7]),
        (Stella, [2] * 8, [8, *[12] * 7]),  # whole clips are scored, then halves of both are trained on
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_passes_by_hand(cls, passes, clips):
    trained(cls, metric := Efficiency())
    found = metric.results()
    assert found["forward_passes_per_step"] == sum(passes) / 8
    assert found["clip_passes_per_clip"] == sum(clips) / 32


@pytest.mark.parametrize("cls", [CLSER, ESMER, MIR], ids=lambda cls: cls.name)
def test_passes_of_teachers_and_virtual_steps_are_those_that_hooks_count(cls):
    strategy = small(cls, dtype="float32")
    metric = Efficiency()
    learner = small_learner(strategy, evaluator=quiet_evaluator(metric))
    held = [getattr(strategy, name).backbone for name in ("teacher", "stable", "plastic") if hasattr(strategy, name)]
    hooks = [Hooks(backbone) for backbone in (learner.backbone, *held)]
    learner.train(Noise().benchmark().train_stream[0])
    assert metric.results()["forward_passes_per_step"] == sum(len(one.clips) for one in hooks) / 8
    assert metric.results()["clip_passes_per_clip"] == sum(sum(one.clips) for one in hooks) / 32


def test_patches_kept_and_visible():
    trained(Stella, metric := Efficiency())
    found = metric.results()
    patches = {key: value for key, value in found.items() if "patches" in key}
    assert patches == {
        "video_patches_kept": 4,
        "video_patches_visible": 3,
        "audio_patches_kept": 4,
        "audio_patches_visible": 3,
    }


def test_bytes_of_the_replay_buffer():
    metric = Efficiency()
    learner = trained(DERpp, metric)
    found, memory = metric.results(), learner.strategies[0].memory
    assert found["buffer_bytes"] == found["buffer_bytes_full"] == memory.nbytes == memory.full_bytes > 0
    trained(Finetune, metric := Efficiency())
    assert metric.results()["buffer_bytes"] == 0


def test_backbones_are_left_as_they_were():
    learner = trained(CLSER, Efficiency())
    strategy = learner.strategies[0]
    for backbone in (learner.backbone, strategy.stable.backbone):
        assert not set(ENTRANCES) & set(vars(backbone))


def test_a_step_that_failed_does_not_count():
    class Odd(Finetune):
        failed = False

        def observe(self, learner):
            if not Odd.failed:
                Odd.failed = True
                raise RuntimeError("once")

    metric = Efficiency()
    learner = small_learner(Odd(), evaluator=quiet_evaluator(metric))
    experience = Noise().benchmark().train_stream[0]
    with pytest.raises(Exception, match="once"):
        learner.train(experience)
    learner.batches_done = 0
    learner.train(experience)
    assert metric.results()["forward_passes_per_step"] == 1
    assert not set(ENTRANCES) & set(vars(learner.backbone))


def test_times_leave_evaluation_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("avcl.metrics.throughput.time.perf_counter", lambda: now[0])
    metric = Throughput()
    learner = small_learner(Finetune(), evaluator=quiet_evaluator(metric))
    assert metric.measured() == {}
    streams = Noise().benchmark()
    step = learner.optimizer_step

    def slow_step():
        now[0] += 2.0
        step()

    def evaluated(learner):
        if learner.is_training and learner.batches_done == 2:
            learner.eval(streams.eval_stream)

    embed = learner.backbone.embed
    learner.backbone.embed = lambda clip: (now.__setitem__(0, now[0] + 100.0), embed(clip))[1]
    learner.optimizer_step, learner.between_batches = slow_step, evaluated
    learner.train(streams.train_stream[0])
    found = metric.measured()
    assert (found["clips"], found["training_seconds"], found["clips_per_second"]) == (32, 16.0, 2.0)
    assert found["peak_memory_mib"] > 1 and found["device"] == "cpu"
    assert torch.is_grad_enabled()
