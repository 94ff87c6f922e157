"""``avcl train`` over a stream without sharp task boundaries, with every method that declares none."""

import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.registry import registry

TASK_FREE = sorted(part.name for _, part in registry().offers("strategies") if not part.needs_boundaries)
SMALL = {
    "seed": 1,
    "weights": "null",
    "evaluate_every": 2,
    "shared.memory.capacity": 8,
    "scenario": "{name: synthetic, blend: 0.5, tasks: 2, classes: 2, train_clips: 8, eval_clips: 4, height: 32, "
    "width: 32, times: 64, mels: 32, object: 0.5, distractors: 0}",
    "learner.epochs": 1,
    "learner.batch_size": 4,
    "learner.eval_batch_size": 8,
}


@pytest.mark.process
@pytest.mark.parametrize("strategy", TASK_FREE)
def test_a_blurred_stream_trains_and_its_anytime_curve_is_written(strategy, tmp_path):
    words = ["train", "run", "--strategy", strategy, "--out", str(tmp_path / "run")]
    for key, value in SMALL.items():
        words += ["--set", f"{key}={value}"]
    level = logging.getLogger("avcl").level
    done = CliRunner().invoke(app, words)
    logging.getLogger("avcl").setLevel(level)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    curve = results["metrics"]["retrieval"]["measures"]["a2v/R@mean"]["anytime"]
    assert curve["steps"] == [2, 4, 6, 8]
    assert len(curve["average"]) == 4 and curve["worst_drop"] >= 0
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    told = [(event.step, event.value) for event in events.Scalars("eval/a2v/R@mean/anytime")]
    assert [step for step, _ in told] == curve["steps"]
    assert [value for _, value in told] == pytest.approx(curve["average"])
