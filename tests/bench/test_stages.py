"""A step by stage: what is done where, by hand; the loop is the learner's own."""

import pytest
import torch
from helpers.toys import small, small_learner, weights

from avcl.bench.passes import counted
from avcl.bench.peaks import OnHost
from avcl.bench.stages import STAGES, Spent, Stages
from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.finetune import Finetune
from avcl.plugins.gmed import GMED
from avcl.plugins.mir import MIR
from avcl.plugins.stella import Stella
from avcl.testing import Noise


def begun(strategy, follow=lambda learner: None, **settings):
    """A learner that is followed, after two batches; ``follow`` changes it before."""
    learner = small_learner(strategy, epochs=100, **settings)
    follow(learner)
    stages = Stages(learner)
    stages.start(Noise().benchmark().train_stream[0])
    stages.advance()
    return stages


def test_what_grows_in_a_stage_is_that_stages():
    units, strategy = [0], small(DERpp)

    def costing(owner, name, cost):
        call = getattr(owner, name)

        def dearer(*args, **kwargs):
            units[0] += cost
            return call(*args, **kwargs)

        setattr(owner, name, dearer)

    def follow(learner):
        costing(learner, "_unpack_minibatch", 1)
        costing(strategy, "prepare", 10)
        costing(strategy.memory, "sample", 100)
        costing(learner.backbone, "draw_masks", 1_000)
        costing(strategy, "penalty", 1_000)
        costing(learner, "backward", 10_000)
        costing(learner, "optimizer_step", 100_000)
        costing(strategy, "observe", 200)
        costing(learner, "_after_forward", 1_000_000)

    stages, spent = begun(strategy, follow), Spent(lambda: units[0])
    with stages.watched(spent):
        stages.advance(3)
    per_step = {"data": 1, "scoring": 10, "memory": 300, "forward": 2_000, "backward": 10_000}
    per_step |= {"optimizer": 100_000, "logging": 1_000_000}
    assert spent.by_stage == {stage: 3 * cost for stage, cost in per_step.items()}
    assert spent.total == units[0] - 2 * 1_112_311 + 100  # two steps before, the first without a past
    assert set(spent.by_stage) == set(STAGES)


def test_it_is_the_loop_across_epochs_and_changes_nothing():
    """Noise has four batches an epoch."""
    stages = begun(small(DERpp))
    stages.advance(5)
    assert stages.learner.batches_done == stages.learner.steps == 7
    plain = small_learner(small(DERpp), epochs=2)
    plain.between_batches = lambda learner: learner.steps == 7 and learner.stop_training()
    plain.train(Noise().benchmark().train_stream[0])
    assert torch.equal(weights(stages.learner), weights(plain))


@pytest.mark.parametrize(
    ("make", "settings", "expected"),
    [
        (Finetune, {}, {"forward": [4], "backward": [0]}),
        (DERpp, {}, {"forward": [8], "backward": [0]}),
        (CLSER, {}, {"forward": [8], "embed": [4, 4], "backward": [0]}),
        (MIR, {"candidates": 2}, {"forward": [4, 8, 8, 8], "backward": [0] * 2}),
        (GMED, {}, {"forward": [4, 4, 4, 8], "backward": [0] * 4}),
        (Stella, {}, {"forward": [8], "encode": [4], "fuse": [4, 2], "backward": [0]}),
        (Stella, {"scorer": "cosine"}, {"forward": [8], "encode": [4], "backward": [0]}),
        (Stella, {"scorer": "cosine", "scorer_blocks": 1}, {"forward": [8], "encode_first": [4], "backward": [0]}),
    ],
)
def test_passes(make, settings, expected):
    stages = begun(small(make, **settings))
    stages.advance()
    with counted(stages.learner) as passes:
        stages.advance()
    assert {kind: clips for kind, clips in passes.items() if clips} == expected
    assert "encode" not in vars(stages.learner.backbone)  # it is as it was


def test_the_peak_of_each_stage_is_the_sum_of_what_is_held():
    held, peaks = {}, OnHost()
    with peaks.recording():
        held["before"] = torch.empty(1_000, dtype=torch.uint8)
        peaks.begin()
        held["data"] = torch.empty(20_000, dtype=torch.uint8)
        peaks.end("data")
        torch.empty(300_000, dtype=torch.uint8)  # given back at once
        peaks.end("scoring")
        del held["data"]
        held["forward"] = torch.empty(4_000_000, dtype=torch.uint8)
        peaks.end("forward")
        peaks.end("backward")
    assert peaks.by_stage == {"data": 21_000, "scoring": 321_000, "forward": 4_001_000, "backward": 4_001_000}


def test_a_steps_memory_is_what_its_passes_hold():
    """Twice the clips, twice the activations; the same step takes the same bytes every time."""

    def peak(strategy):
        """Beyond what is held when it is made, and before it trains."""
        learner, peaks = small_learner(strategy, epochs=100), OnHost()
        with peaks.recording():
            stages = Stages(learner)
            stages.start(Noise().benchmark().train_stream[0])
            stages.advance()
            with stages.watched(peaks):
                stages.advance()
        return peaks.by_stage

    alone, replayed = peak(Finetune()), peak(small(DERpp))
    assert alone == peak(Finetune())
    assert 1.5 * alone["forward"] < replayed["forward"] < 2.5 * alone["forward"]
