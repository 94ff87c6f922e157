"""Avalanche's own parts on our learner: its evaluation plugin, loggers, metrics."""

import io
import subprocess
import sys

import pytest
import torch
from avalanche.evaluation.metrics import timing_metrics
from avalanche.logging import InteractiveLogger, TensorboardLogger, TextLogger
from avalanche.training.plugins import EvaluationPlugin
from helpers.toys import first_task
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avcl.compat import AvalancheDataset, benchmark_from_datasets
from avcl.metrics import LossTerms, Retrieval
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import Noise


def test_stock_evaluation_plugin_metrics_and_loggers(make_learner, tmp_path, capsys):
    text = io.StringIO()
    board = TensorboardLogger(tmp_path)
    loggers, timing = [board, TextLogger(text), InteractiveLogger()], timing_metrics(epoch=True)
    evaluator = EvaluationPlugin(LossTerms(), Retrieval(), timing, loggers=loggers, collect_all=False)
    learner = make_learner(Finetune(), evaluator=evaluator, epochs=1)
    benchmark = Noise().benchmark()
    for experience in benchmark.train_stream:
        learner.train(experience)
        last = learner.eval(benchmark.eval_stream)
    board.writer.close()
    assert last["eval/a2v/R@10/average"] > 0
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "train/loss/total" in tags
    assert "eval/v2a/R@1/task1" in tags
    assert any(tag.startswith("Time_Epoch") for tag in tags)
    assert "train/loss/contrastive" in text.getvalue()
    assert "train/loss/contrastive" in capsys.readouterr().out


def test_streams_of_anyones_datasets(make_learner):
    """Dict samples, several datasets joined, names of streams of one's own; no label, no task, no index."""
    data = [Noise().clips(task, "train") for task in (0, 1)]
    bare = [[{key: part[i][key] for key in ("frames", "mel")} for i in range(8)] for part in data]
    joined = AvalancheDataset([bare[0], bare[1]])
    benchmark = benchmark_from_datasets(train=[joined], probe=[AvalancheDataset([bare[1]])])
    retrieval = Retrieval()
    learner = make_learner(Finetune(), evaluator=EvaluationPlugin(retrieval, loggers=[TextLogger(io.StringIO())]))
    learner.train(benchmark.train_stream)
    learner.eval(benchmark.probe_stream)
    assert learner.steps == 8
    assert retrieval.gallery == 8


def test_evaluating_every_epoch_within_training():
    """Avalanche's eval_streams of train() are for its periodic evaluation; ours is off unless asked for."""
    retrieval = Retrieval()
    first_task(Finetune(), evaluator=EvaluationPlugin(retrieval, loggers=[TextLogger(io.StringIO())]))
    assert retrieval.history == {}


@pytest.mark.process
def test_importing_warns_of_nothing():
    """Under -W error Avalanche alone cannot be imported: it looks for a QP solver."""
    ask = [sys.executable, "-W", "error", "-c", "import avcl.experiment.run"]
    result = subprocess.run(ask, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_torchs_generator_is_left_alone():
    """Training draws from named generators only, so that nothing a user does between steps changes a run."""
    before = torch.get_rng_state()
    first_task(Finetune())
    assert torch.equal(torch.get_rng_state(), before)
