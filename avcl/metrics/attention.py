"""Attention forgetting: how a method's importance of the same patches of the same clips changes over the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from avcl.compat import MetricValue, PluginMetric
from avcl.metrics.selection import AT_ONCE, KINDS, fixed_clips, known_mean, selecting, whole_clips
from avcl.registry import blamed
from avcl.scenario import Scenario
from avcl.strategy import Strategy
from avcl.training.learner import Learner
from avcl.utils import seeding

Maps = dict[str, Tensor]


def map_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of two maps of each clip, both (B, L), (B,); NaN where one of them is the same all over."""
    one, other = (x.double() - x.double().mean(1, keepdim=True) for x in (one, other))
    norms = one.norm(dim=1) * other.norm(dim=1)
    blind = norms < 1e-12  # what rounding leaves of a map that is the same all over
    return ((one * other).sum(1) / norms).masked_fill(blind, float("nan"))


class AttentionForgetting(PluginMetric[dict[str, Any]]):
    """Correlation of the importance of every task's clips with what it was right after that task.

    For patch-selecting strategies, after every task; 1 means that the method still looks where it had learned to look.
    Tags: ``eval/attention/<video|audio>``, the mean over the earlier tasks. ``maps[t][i]``: importance by modality
    (clips, L) of the clips of task i after task t.

    Args:
        clips: Evaluation clips of each task, the same ones every time.
    """

    def __init__(self, scenario: Scenario, *, clips: PositiveInt = 16):
        super().__init__()
        self.scenario, self.clips = scenario, clips
        self.maps: list[list[Maps]] = []
        self.reset()

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Keep the maps of the clips of the tasks so far; not within a task."""
        part = selecting(strategy.strategies)
        if strategy.batches_done or not strategy.tasks_done or part is None:
            return []
        tasks = range(min(strategy.tasks_done, len(self.scenario.task_names)))
        with torch.no_grad(), strategy.autocast(), blamed(part, "selection"):
            found = [self._maps(strategy, part, task) for task in tasks]
        if None in found:
            return []
        self.maps.append([maps for maps in found if maps is not None])
        step = strategy.clock.train_iterations
        return [MetricValue(self, f"eval/attention/{key}", value, step) for key, value in self.result().items()]

    def _maps(self, learner: Learner, part: Strategy, task: int) -> Maps | None:
        dataset, generator = self.scenario.clips(task, "eval"), seeding.generator(learner.seed, "attention")
        numbers, found = fixed_clips(dataset, self.clips), []
        for start in range(0, len(numbers), AT_ONCE):
            _, clip = whole_clips(dataset, numbers[start : start + AT_ONCE], learner.backbone)
            if clip is None:
                continue
            selection = part.selection(learner.backbone, clip, generator)
            if selection is None:
                return None
            found.append(selection)
        if not found:  # every one of them is corrupt
            return None
        return {kind: torch.cat([getattr(one, kind).importance.float().cpu() for one in found]) for kind in KINDS}

    def correlation(self, kind: str, after: int, task: int) -> Tensor:
        """Of each clip of a ``task`` ``after`` another one, both counted from 0: its map's correlation, (clips,)."""
        return map_correlation(self.maps[after][task][kind], self.maps[task][task][kind])

    def result(self) -> dict[str, float]:
        """The latest mean over the earlier tasks, by modality; what is not known is left out."""
        last = {kind: summary["average"][-1] for kind, summary in self.results().items()}
        return {kind: value for kind, value in last.items() if value is not None}

    def reset(self) -> None:
        """Nothing is kept from one evaluation for the next but the maps."""

    def results(self) -> dict[str, Any]:
        """By modality the matrix of mean correlations, a row after every task, and its mean over the earlier tasks."""
        found = {}
        for kind in KINDS if self.maps else ():
            matrix = [
                [known_mean(self.correlation(kind, after, task)) for task in range(len(row))]
                for after, row in enumerate(self.maps)
            ]
            earlier = [[value for value in row[:-1] if value is not None] for row in matrix]
            found[kind] = {"matrix": matrix, "average": [sum(row) / len(row) if row else None for row in earlier]}
        return found

    def state_dict(self) -> dict[str, Any]:
        """The maps so far."""
        return {"maps": self.maps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the maps of ``state``."""
        self.maps = state["maps"]

    def __str__(self) -> str:
        return "attention"
