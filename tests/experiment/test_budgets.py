"""Budgets: what a method costs is measured, and brought to what the first method costs."""

import json

import pytest
import torch
from helpers.toys import four, small_learner
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.experiment.budgets import counted, measured, under
from avcl.experiment.run import Run
from avcl.experiment.sweep import plan
from avcl.plugins.finetune import Finetune

FILE = """
scenario: {name: synthetic, tasks: 2, classes: 1, train_clips: 8, eval_clips: 2, pretraining: 0}
backbone: {name: cav-mae, size: tiny, dim: 24, heads: 2, depth: 1, decoder_dim: 16, decoder_heads: 2}
weights: null
strategy: er
shared: {memory: {capacity: 10}, replay: 2.0}
methods: {stella: {heads: 4}, stella-plus: {heads: 4}}
learner: {epochs: 6, batch_size: 2, lr: 0.001}
"""
SHAPE = 2 * 3 * 64 * 64 + 256 * 64  # numbers of a clip's frames and log-mel
PATCHES = 2 * 4 * 4 + 16 * 4
CLIP = 4 * SHAPE + 2 * PATCHES + 8
"""Bytes of a whole clip: float32, a place of two bytes for every patch, and its index."""


@pytest.fixture
def jobs(tmp_path):
    (tmp_path / "small.yaml").write_text(FILE)

    def made(*methods, **vary):
        return plan(tmp_path / "small.yaml", methods, {f"strategy.{k}": v for k, v in vary.items()}, [0, 1], tmp_path)

    return made


def costs(budget, jobs):
    planned, note = under(budget, jobs)
    return {job.variant: job for job in planned}, note["methods"]


# ---- counting ----
def test_passes_are_counted_once_whoever_takes_them():
    """Tokens are encoded first: one pass, not two. Afterwards the backbone is what it was."""
    backbone = small_learner(Finetune()).backbone
    before = dict(vars(type(backbone)))
    clip = four(0, torch.float32)
    with counted(backbone) as counter, torch.no_grad():
        backbone.tokens(clip)
        assert counter.clips == 4
        backbone(clip[:3])
        backbone.embed(clip[:1])
        backbone.fuse(*backbone.encode(clip[:2]))
        assert counter.clips == 4 + 3 + 1 + 2
        with pytest.raises(AttributeError):
            backbone.embed(clip[:1].video)
        backbone.encode(clip)
        assert counter.clips == 10 + 1 + 4, "a pass that fails ends"
    assert dict(vars(type(backbone))) == before


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        ("finetune", 2),  # current clips
        ("er", 2 + 4),  # and twice as many replayed
        ("stella", 2 + 4 + 2),  # and current ones once more for their scores
    ],
)
def test_what_a_method_costs(jobs, method, passes):
    """Eight clips a task, batches of two, six epochs of two tasks: 48 batches."""
    cost = measured(jobs(method)[0].raw)
    assert (cost.clip_passes, cost.epochs, cost.whole_clip_bytes) == (48 * passes, 6, CLIP)
    assert (cost.buffer_clips > 0) == (method != "finetune")


# ---- bytes ----
def test_equal_bytes_hold_as_many_clips_as_fit(jobs):
    """DER++ stores two embeddings of 24 numbers beside each clip, STELLA+ half of the patches and more beside them."""
    planned, made = costs("bytes", jobs("er", "finetune", "derpp", "stella-plus"))
    budget = 10 * CLIP
    assert (made["er"]["buffer_clips"], made["er"]["buffer_bytes"]) == (10, budget)
    beside = CLIP + 2 * 24 * 4
    assert made["derpp"]["buffer_clips"] == budget // beside == 9
    assert made["derpp"]["buffer_bytes"] == 9 * beside
    assert 15 <= made["stella-plus"]["buffer_clips"] < 20, "a little less than twice as many"
    assert budget - beside < made["stella-plus"]["buffer_bytes"] <= budget
    assert made["finetune"]["buffer_clips"] == made["finetune"]["buffer_bytes"] == 0
    memory = Run.from_config(planned["stella-plus"].raw).strategies[0].memory
    assert memory.budget_bytes == budget


def test_bytes_follow_a_capacity_that_is_varied(jobs):
    _, made = costs("bytes", jobs("er", "derpp", **{"memory.capacity": [4, 8]}))
    assert {name: cost["buffer_clips"] for name, cost in made.items()} == {
        "er memory.capacity=4": 4,
        "er memory.capacity=8": 8,
        "derpp memory.capacity=4": 3,
        "derpp memory.capacity=8": 7,
    }


# ---- passes ----
def test_equal_passes_scale_epochs_to_the_first_method(jobs):
    """ER takes three times Finetune's passes, STELLA four thirds of ER's: 18, 6 and 4.5, that is 4 epochs."""
    planned, made = costs("passes", jobs("er", "finetune", "stella"))
    assert {name: cost["epochs"] for name, cost in made.items()} == {"er": 6, "finetune": 18, "stella": 4}
    assert [cost["clip_passes"] for cost in made.values()] == [48 * 6, 48 * 6, 48 * 4 // 6 * 8]
    assert Run.from_config(planned["finetune"].raw).learner_settings["epochs"] == 18


def test_steps_change_and_measure_nothing(jobs, monkeypatch):
    monkeypatch.setattr("avcl.experiment.budgets.measured", lambda raw: pytest.fail("measured"))
    given = jobs("er", "finetune")
    planned, note = under("steps", given)
    assert planned == given and note["kind"] == "steps" and "methods" not in note


def test_the_budget_is_printed_and_kept(jobs, tmp_path, monkeypatch):
    jobs("er")
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "small.yaml", "--methods", "er", "derpp", "--seeds", "0,", "--budget", "bytes", "--out", "out"]
    words += ["--set", "learner.epochs=1", "--set", "scenario.train_clips=4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "budget: equal bytes (as many clips in each replay buffer as fit" in done.output
    assert f"replay buffer: {10 * CLIP:,} bytes, the same for all" in done.output
    assert "replay buffer when full, clips: 10 (er); 9 (derpp)" in done.output
    note = json.loads((tmp_path / "out" / "sweep.json").read_text())["budget"]
    assert note["kind"] == "bytes" and note["methods"]["derpp"]["buffer_clips"] == 9
    later = CliRunner().invoke(app, ["results", "out"])
    assert "budget of the sweep: equal bytes, the same for all" in later.output
