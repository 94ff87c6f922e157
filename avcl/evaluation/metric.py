"""Any evaluation as a metric of a run: scored at task ends, on the clips of the run's scenario."""

from __future__ import annotations

from typing import Any, ClassVar

from avcl.compat import MetricValue, PluginMetric
from avcl.evaluation.protocol import Evaluation, Frozen, Scores, evaluated
from avcl.scenario import Scenario
from avcl.training.learner import Learner


class EvaluationMetric(PluginMetric[dict[str, Any]]):
    """An evaluation of the model as it is at the end of every task; tags ``eval/<name>/<score>``.

    ``component``: the evaluation, whose settings a run file gives beside its name. Evaluations within tasks leave it
    out. Training goes on as if it had not been there.
    """

    optional: ClassVar[bool] = True
    """A run file must name it: it costs more than a pass over the evaluation clips."""

    def __init__(self, evaluation: Evaluation, scenario: Scenario):
        super().__init__()
        self.component, self.scenario, self.name = evaluation, scenario, evaluation.name
        self.history: list[dict[str, Any]] = []
        self._last: Scores | None = None

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Score the model where a task has ended."""
        if strategy.batches_done or not strategy.tasks_done:
            return []
        model = Frozen(
            backbone=strategy.backbone,
            scenario=self.scenario,
            modules=dict(strategy.named_modules()),
            device=strategy.device,
            seed=strategy.seed,
            workers=strategy.loading.workers,
        )
        found = self._last = evaluated(self.component, model)
        self.history.append(found.about())
        at = strategy.clock.train_iterations
        return [MetricValue(self, f"eval/{self.name}/{name}", value, at) for name, value in found.scores.items()]

    def result(self) -> dict[str, Any]:
        """The scores of the last evaluation."""
        return dict(self._last.scores) if self._last else {}

    def reset(self) -> None:
        """Nothing is gathered between evaluations."""

    def results(self) -> dict[str, Any]:
        """For ``results.json``: the settings, and after every task what ``evaluations.json`` would hold."""
        return {"settings": self.component.settings(), "after_tasks": self.history}

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind ``state``."""
        self.history = state["history"]

    def __str__(self) -> str:
        return self.name
