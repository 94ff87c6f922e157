"""Avalanche's plugins, metrics and loggers, tried one by one: they work, or are refused for a reason that holds."""

import inspect
import io
import warnings

import pytest
import torch
from avalanche import logging
from avalanche.evaluation import metrics
from avalanche.training import plugins
from helpers.toys import train
from torch.optim.lr_scheduler import StepLR

from avcl.compat import BaseLogger, BaseSGDPlugin, EvaluationPlugin, PluginMetric
from avcl.errors import UserError
from avcl.metrics import LossTerms
from avcl.plugins.finetune import Finetune
from avcl.testing.toys import Noise
from avcl.training import verdicts

ANOTHER = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
PLUGINS = {
    "AGEMPlugin": (8, 4),
    "BiCPlugin": (8,),
    "CWRStarPlugin": (torch.nn.Linear(2, 2),),
    "CoPEPlugin": (8, 10),
    "EWCPlugin": (1.0,),
    "EarlyStoppingPlugin": (1, "eval"),
    "GDumbPlugin": (8,),
    "GEMPlugin": (4, 0.5),
    "GSS_greedyPlugin": (8, 4),
    "LFLPlugin": (1.0,),
    "LRSchedulerPlugin": (StepLR(ANOTHER, 1),),
    "MIRPlugin": (4, 4),
    "MemoryFeCAMUpdate": (8,),
    "MemoryNCMUpdate": (8,),
    "RARPlugin": (4, 8),
    "ReplayPlugin": (8,),
    "SynapticIntelligencePlugin": (1.0,),
}
SILENT = {  # what changes nothing, and says nothing
    *("EarlyStoppingPlugin", "ReplayPlugin", "SynapticIntelligencePlugin", "TrainGeneratorAfterExpPlugin")
}
GIVEN = {"gpu_id": 0, "every": 0.001, "paths_to_monitor": "here", "top_k": 1}
ZERO = {"gpu_usage_metrics"}  # where there is no GPU


ALONE = ("CumulativeAccuracyPluginMetric", "CumulativeForgettingPluginMetric", "WeightCheckpoint")  # of no helper


def stock(module, base):
    """The names of the classes that Avalanche offers there; its bases for others' classes left out."""
    found = {name: cls for name, cls in vars(module).items() if isinstance(cls, type) and issubclass(cls, base)}
    return sorted(name for name, cls in found.items() if cls.__module__.startswith(f"{module.__name__}."))


def without_verdicts(monkeypatch):
    monkeypatch.setattr(verdicts, "refuse", lambda *parts: None)


@pytest.mark.parametrize(("module", "base"), [(plugins, BaseSGDPlugin), (metrics, PluginMetric), (logging, BaseLogger)])
def test_there_is_a_verdict_on_every_class_and_no_other(module, base):
    offered = {name: verdicts.verdict_on(getattr(module, name)) for name in stock(module, base)}
    missing = {name for name, verdict in offered.items() if verdict is None}
    assert missing == ({"BaseLogger"} if module is logging else set())
    assert set(offered.values()) - {None} == set(verdicts.VERDICTS[module.__name__].values())


@pytest.mark.parametrize("name", stock(plugins, BaseSGDPlugin))
def test_a_plugin_is_refused_that_fails_or_changes_nothing(make_learner, name, monkeypatch, recwarn):
    plugin = getattr(plugins, name)(*PLUGINS.get(name, ()))
    with pytest.raises(UserError, match=rf"^plugins: Avalanche's {name} cannot work: it [^\n]+; use [^\n]+$"):
        make_learner(Finetune(), plugins=[plugin])
    without_verdicts(monkeypatch)
    warnings.simplefilter("ignore")
    learner = make_learner(Finetune(), plugins=[plugin], epochs=1)
    if name in SILENT:
        assert torch.equal(train(learner), train(make_learner(Finetune(), epochs=1)))
    elif name == "LRSchedulerPlugin":
        train(learner)
        assert learner.optimizer.param_groups[0]["lr"] == 0.1  # of another optimizer
    else:
        with pytest.raises((AssertionError, AttributeError, KeyError, NotImplementedError, TypeError, ValueError)):
            train(learner)


def test_anyone_elses_plugin_is_not_judged(make_learner):
    class Mine(plugins.ReplayPlugin):
        seen = 0

        def before_training_exp(self, strategy, **kwargs):
            self.seen += 1

        def after_training_exp(self, strategy, **kwargs):
            pass

    mine = Mine(8)
    train(make_learner(Finetune(), plugins=[mine], epochs=1))
    assert mine.seen == 2


def helpers_for_metrics():
    return sorted(name for name, helper in vars(metrics).items() if inspect.isfunction(helper))


@pytest.mark.filterwarnings("ignore:Your system has no GPU:UserWarning")
@pytest.mark.parametrize("name", [*helpers_for_metrics(), *ALONE])
def test_a_metric_is_right_or_refused(make_learner, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_bytes(bytes(8192))
    helper = getattr(metrics, name)
    asked = inspect.signature(helper).parameters.values()
    some = {p.name: True for p in asked if p.default is False or "on_" in p.name}
    made = helper(**some | {p.name: GIVEN[p.name] for p in asked if p.name in GIVEN})
    for metric in made if isinstance(made, list | tuple) else [made]:
        refused = verdicts.verdict_on(type(metric)).reason
        evaluator = EvaluationPlugin(metric, loggers=[BaseLogger()], collect_all=False)
        if refused:
            told = rf"^evaluator.metrics: Avalanche's {type(metric).__name__} cannot work: it [^\n]+; use [^\n]+$"
            with pytest.raises(UserError, match=told):
                make_learner(Finetune(), evaluator=evaluator)
            with monkeypatch.context() as patch:
                without_verdicts(patch)
                learner = make_learner(Finetune(), evaluator=evaluator, epochs=1)
        else:
            learner = make_learner(Finetune(), evaluator=evaluator, epochs=1)
        benchmark = Noise().benchmark()
        if refused and name not in {*ZERO, "WeightCheckpoint"}:
            with pytest.raises((AttributeError, TypeError, KeyError)):
                learner.train(benchmark.train_stream[0]), learner.eval(benchmark.eval_stream)
            continue
        learner.train(benchmark.train_stream[0])
        values = list(learner.eval(benchmark.eval_stream).values())
        assert values
        if name == "WeightCheckpoint":
            assert isinstance(values[0], bytes)
        elif name in ZERO:
            assert torch.cuda.is_available() or set(values) == {0}
        elif name == "disk_usage_metrics":
            assert all(8 <= value < 20 for value in values)  # kB, the folder's own entry counts
        elif name == "ram_usage_metrics":
            assert all(100 < value < 100_000 for value in values)  # MB
        elif name == "timing_metrics":
            assert all(0 < value < 60 for value in values)  # s
        else:
            assert name == "cpu_usage_metrics"
            assert all(value >= 0 for value in values)


@pytest.mark.parametrize("name", stock(logging, BaseLogger))
def test_a_logger_writes_what_it_is_given_or_is_refused(make_learner, name, monkeypatch, tmp_path, capsys):
    if name == "BaseLogger":
        return
    if name == "WandBLogger":
        with pytest.raises(UserError, match=r"Avalanche's WandBLogger cannot work: it .*; use the logger `wandb`$"):
            verdicts.refuse([], [], [object.__new__(logging.WandBLogger)])
        return
    text = io.StringIO()
    given = {"TextLogger": (text,), "InteractiveLogger": ()}.get(name, (tmp_path,))
    logger = getattr(logging, name)(*given)
    evaluator = EvaluationPlugin(LossTerms(), loggers=[logger], collect_all=False)
    if name == "CSVLogger":
        with pytest.raises(UserError, match=r"^evaluator.loggers: Avalanche's CSVLogger .*; use the logger `csv`$"):
            make_learner(Finetune(), evaluator=evaluator)
        without_verdicts(monkeypatch)
    learner = make_learner(Finetune(), evaluator=evaluator, epochs=1)
    learner.train(Noise().benchmark().train_stream[0])
    if name == "CSVLogger":
        learner.eval(Noise().benchmark().eval_stream)
        logger.close()
        assert (tmp_path / "training_results.csv").read_text().splitlines()[1:] == ["0,0,0,0,0,0"]
    elif name == "TensorboardLogger":
        logger.writer.close()
        assert b"train/loss/total" in next(tmp_path.glob("events*")).read_bytes()
    else:
        assert "train/loss/total" in text.getvalue() + capsys.readouterr().out
