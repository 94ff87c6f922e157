"""A run: one experiment, from its parts to its folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from avcl.backbones.protocol import Backbone
from avcl.backbones.weights import Weights, save_weights
from avcl.compat import BaseSGDPlugin, CLScenario, quiet_evaluator
from avcl.config.build import components_of
from avcl.errors import StoppedError
from avcl.experiment.model_card import markdown_card
from avcl.experiment.nan_file import noting
from avcl.experiment.picking import Picks, closing, picked
from avcl.experiment.run_folder import RunFolder
from avcl.experiment.signals import Stopping
from avcl.registry import blamed, registry
from avcl.scenario import Scenario
from avcl.strategy import Strategy
from avcl.training.callbacks import Callback
from avcl.training.learner import Learner
from avcl.training.saving import Saving
from avcl.utils import atomic, distributed

log = logging.getLogger(__name__)


class Run:
    """One experiment: a scenario, a backbone, one or several strategies, and a run folder.

    ``train`` leaves in ``folder``: ``run.json`` (settings, command, versions, plugins, resumes) · TensorBoard events ·
    ``results.json`` (the task matrix of every metric), ``efficiency.json`` (speed and peak memory, which differ from
    run to run) and ``checkpoint/`` (the whole state), written after every task · ``pictures/`` of patch-selecting
    methods · ``weights.safetensors`` · ``README.md``.

    ``learner``: its settings · ``weights``: what to start from, None for scratch · ``evaluate_every``: steps between
    evaluations within tasks, None for task ends only · ``checkpoint``: when to save within tasks · ``metrics``,
    ``loggers``: those to take by name and with which settings, None for all that are not optional · ``callbacks``:
    more Avalanche plugins · ``settings``: the resolved configuration, for the manifest · ``method``: what it calls the
    strategies.
    """

    def __init__(
        self,
        *,
        scenario: Scenario,
        backbone: Backbone,
        strategies: Sequence[Strategy],
        folder: str | Path,
        learner: Mapping[str, Any] | None = None,
        weights: Weights | None = None,
        seed: int = 0,
        device: str = "cpu",
        evaluate_every: int | None = None,
        checkpoint: Saving | None = None,
        metrics: Picks = None,
        loggers: Picks = None,
        callbacks: Sequence[Callback] = (),
        settings: Mapping[str, Any] | None = None,
        method: str = "",
    ):
        self.scenario, self.backbone, self.strategies = scenario, backbone, list(strategies)
        self.folder, self.seed, self.device = RunFolder(folder), seed, device
        self.settings, self.learner_settings = dict(settings or {}), dict(learner or {})
        self.initial = {} if weights is None else weights.fill(backbone)
        with blamed(scenario, "preprocessing"):  # whatever is written from now on carries it
            preprocessing = scenario.preprocessing
        backbone.preprocessing = None if preprocessing is None else preprocessing.settings()
        self.method = method or "+".join(part.name for part in self.strategies)
        self.evaluate_every, self.checkpoint, self.resumed_at = evaluate_every, checkpoint or Saving(), -1
        self.metrics, self.loggers, self.callbacks = metrics, loggers, list(callbacks)

    @classmethod
    def from_config(cls, raw: Mapping[str, Any]) -> Run:
        """The run that a configuration describes; SettingsError lists every mistake in it."""
        return cls(**components_of(raw))

    @cached_property
    def benchmark(self) -> CLScenario:
        """The scenario's Avalanche streams, made when they are first needed."""
        with blamed(self.scenario, "benchmark"):
            return self.scenario.benchmark(joint=self.joint)

    @property
    def joint(self) -> bool:
        """Whether a strategy wants all tasks at once."""
        return any(part.joint for part in self.strategies)

    @property
    def needs_boundaries(self) -> bool:
        """Whether a strategy or a callback acts on task boundaries."""
        return any(part.needs_boundaries for part in self.strategies) or any(
            callback.needs_boundaries for callback in self.callbacks
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """What is trained on, one after the other: the tasks, or all of them at once."""
        return ("all tasks",) if self.joint else self.scenario.task_names

    def learner(self, strategies: Sequence[Strategy] | None = None, **more: Any) -> Learner:
        """A loop over this run's backbone with its settings; the same seed makes the same loop."""
        torch.manual_seed(self.seed)
        return Learner(
            backbone=self.backbone,
            strategy=self.strategies if strategies is None else strategies,
            initial=self.initial,
            device=self.device,
            seed=self.seed,
            **self.learner_settings,
            **more,
        )

    def train(self, resume: bool = False) -> dict[str, Any]:
        """Train over the stream, evaluate on all tasks after each, write everything down, return the results.

        ``resume`` continues from the run folder's checkpoint; settings that may change the result must be what they
        were. A folder that holds a run or any other file is never overwritten. Otherwise: UserError. A signal to
        stop is heard between two batches, of evaluation too, and ends in StoppedError.
        """
        with distributed.joined(self.device) as device:
            self.device = str(device)
            return self._trained(resume)

    def _trained(self, resume: bool) -> dict[str, Any]:
        here = self._manifest()
        manifest = distributed.from_first(lambda: self.folder.claim(here, resume))
        if (then := manifest["processes"]) != here["processes"]:
            many = "process" if here["processes"] == 1 else "processes"
            log.info("resumed in %d %s instead of %d: replayed clips are dealt anew", here["processes"], many, then)
        with self.folder.owned():
            state = self.folder.checkpoints.newest() if resume else None
            if state is not None:
                self.resumed_at = state["clock"]["train_iterations"]
            with self._logging(manifest) as evaluator, Stopping() as stopping, noting(self.folder, self.scenario):
                learner = self.learner(evaluator=evaluator, plugins=self.callbacks)
                if state is not None:
                    self._restore(learner, state)
                self._begin(learner, self.steps_of(learner))
                self.checkpoint.start(learner.steps)
                learner.between_batches = learner.between_eval_batches = self._between_batches(stopping)
                if state is not None and state["evaluation_due"]:
                    self._evaluate(learner)
                for task in range(learner.tasks_done, len(self.parts)):
                    learner.train(self.benchmark.train_stream[task])
                    self._evaluate(learner)
                    self._save(learner)
            results = self.results(learner)
            if distributed.rank() == 0:
                save_weights(self.folder / "weights.safetensors", self.backbone, dict(learner.named_modules()))
                atomic.write_text(self.folder / "README.md", markdown_card(self.settings, results))
        return results

    def dry_run(self) -> dict[str, str]:
        """The plan: build everything, take one step, write nothing; sizes, steps and memory of the run."""

        class OneStep(BaseSGDPlugin):
            def after_update(self, strategy: Learner, **kwargs: Any) -> None:
                strategy.stop_training()

        learner = self.learner(plugins=[OneStep(), *self.callbacks])
        picked(registry().metrics(self), self.metrics, "metrics")
        clips, steps = self._clips, self.steps_of(learner)
        self._begin(learner, steps)
        learner.train(self.benchmark.train_stream[0])
        own = sum(p.numel() for module in learner.modules() for p in module.parameters())
        weights = sum(p.numel() * p.element_size() for m in (learner.model, *learner.modules()) for p in m.parameters())
        trained = sum(p.numel() * p.element_size() for p in learner.parameters())
        backbone = sum(p.numel() for p in learner.model.parameters())
        return {
            "parameters": f"{backbone:,} of the backbone, {own:,} of strategies",
            "clips": ", ".join(f"{name} {n:,}" for name, n in zip(self.parts, clips, strict=True)),
            "steps": f"{steps:,} of {learner.train_mb_size * learner.update.accumulate} clips",
            "losses": ", ".join(f"{key} {float(loss):.4g}" for key, loss in learner.losses.items()),
            "memory": f"{_mib(weights + 3 * trained)} of weights, gradients and Adam's moments; "
            f"{_mib(sum(part.full_bytes() for part in self.strategies))} in the replay buffer when full; "
            f"{_mib(learner.peak_bytes())} at the peak of this step, without replay",
        }

    def results(self, learner: Learner) -> dict[str, Any]:
        """What is known so far, by metric; the same seed gives the same file, byte for byte."""
        return {
            "strategy": [part.name for part in self.strategies],
            "scenario": self.scenario.name,
            "seed": self.seed,
            "tasks": list(self.scenario.task_names),
            "tasks_done": learner.tasks_done,
            "bad_clips": {clip.path: clip.reason for clip in self.scenario.refused} | learner.bad.reasons,
            "metrics": {str(metric): found for metric in _lasting(learner) if (found := metric.results())},
        }

    def steps_of(self, learner: Learner) -> int:
        """Optimizer steps over the whole stream."""
        return sum(map(learner.batches_of, self._clips)) * learner.train_epochs // learner.update.accumulate

    def _begin(self, learner: Learner, steps: int) -> None:
        for callback in self.callbacks:
            with blamed(callback, "begin"):
                callback.begin(learner, steps)

    @property
    def _clips(self) -> list[int]:
        """Clips of each part."""
        return [len(experience.dataset) for experience in self.benchmark.train_stream]

    @contextmanager
    def _logging(self, manifest: Mapping[str, Any]) -> Any:
        """An evaluator with the metrics and loggers that were picked; the loggers are closed whatever happens."""
        metrics = picked(registry().metrics(self), self.metrics, "metrics")
        made = registry().loggers(self) if distributed.rank() == 0 else []
        loggers = picked(made, self.loggers if made else None, "loggers")
        self.folder.write("run.json", manifest)  # before all else is written: it makes the folder the run's own
        with closing(loggers):
            for logger in loggers:
                if hasattr(logger, "open"):
                    with blamed(logger, "open"):
                        logger.open(self)
            yield quiet_evaluator(*metrics, loggers=tuple(loggers))

    def _evaluate(self, learner: Learner) -> None:
        learner.eval(self.benchmark.eval_stream)
        self.folder.write("results.json", self.results(learner))
        self.folder.write("efficiency.json", _measured(learner))

    def _save(self, learner: Learner, evaluation_due: bool = False) -> None:
        state = learner.state_dict() | {"metrics": {str(m): m.state_dict() for m in _lasting(learner)}}
        batches = learner.clock.train_iterations
        self.folder.checkpoints.save({**state, "evaluation_due": evaluation_due}, batches, self.checkpoint.keep)
        self.checkpoint.start(learner.steps)

    def _between_batches(self, stopping: Stopping) -> Callable[[Learner], None]:
        """Evaluate every so many steps, save now and then, and stop where that was asked for: in this order."""
        every = self.evaluate_every

        def pause(learner: Learner) -> None:
            training = learner.is_training
            whole = training and not learner.pending and not learner.task_is_over
            if whole and every and learner.steps % every == 0:
                self._evaluate(learner)
            asked, due = distributed.any_of(bool(stopping.asked), training and self.checkpoint.due(learner.steps))
            if asked or due:
                self._save(learner, evaluation_due=not training)
            if asked:
                by = next(filter(None, distributed.everyone(stopping.asked)))
                raise StoppedError(f"stopped by {by} after step {learner.steps}; continue with --resume")

        return pause

    def _restore(self, learner: Learner, state: Mapping[str, Any]) -> None:
        learner.load_state_dict(state)
        for metric in _lasting(learner):
            metric.load_state_dict(state["metrics"][str(metric)])

    def _manifest(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "method": self.method,
            "seed": self.seed,
            "device": str(torch.device(self.device)),
            "processes": distributed.world_size(),
            "needs_boundaries": self.needs_boundaries,
            "joint": self.joint,
            "parameters": sum(p.numel() for p in self.backbone.parameters()),
            "clips": self._clips,
            "data": self.scenario.fingerprint,
            "plugins": {plugin.name: str(plugin) for plugin in registry().plugins},
        }


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _measured(learner: Learner) -> dict[str, Any]:
    """What metrics measured that another run, or machine, would find otherwise."""
    found = [metric.measured() for metric in learner.evaluator.metrics if hasattr(metric, "measured")]
    return {key: value for one in found for key, value in one.items()}


def _lasting(learner: Learner) -> list[Any]:
    """The metrics that have something for ``results.json``."""
    return [metric for metric in learner.evaluator.metrics if hasattr(metric, "results")]
