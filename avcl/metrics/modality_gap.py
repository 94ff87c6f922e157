"""Modality gap: how far apart the embeddings of audio and video lie, and how that drifts over the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from avcl.compat import MetricValue, PluginMetric
from avcl.metrics.continual import Matrix, average, forgetting
from avcl.training.learner import Learner


def modality_gap(audio: Tensor, video: Tensor) -> float:
    """Distance of the mean unit-length embeddings of ``audio (N, D)`` and ``video (N, D)``, in 0..2.

    Liang et al., *Mind the Gap*, NeurIPS 2022, arXiv 2203.02053.
    """
    mean_audio, mean_video = (normalize(x.detach().double(), dim=-1).mean(0) for x in (audio, video))
    return float(torch.linalg.vector_norm(mean_audio - mean_video))


def gap_summaries(gaps: Matrix, joint: bool = False) -> dict[str, float | None]:
    """``average`` over the tasks so far of a task matrix ``gaps[t][i]``, and its ``drift``.

    The drift is the largest fall of a task's gap since any earlier evaluation, over all tasks but the last, as STELLA
    (arXiv 2310.08204) reports it: forgetting in the form of continual.py. None after the first task.
    """
    if joint:
        return {"average": float(np.mean(gaps[-1])), "drift": None}
    return {"average": average(gaps), "drift": forgetting(gaps)}


class ModalityGap(PluginMetric[dict[str, Any]]):
    """The modality gap of every task's evaluation clips after every task, its average over the tasks so far, its drift.

    Tags: ``eval/modality_gap/<average|drift>``; the task matrix is in ``results()``. ``joint``: all tasks were trained
    on at once, so that the average is over all of them, and nothing drifts.
    """

    def __init__(self, joint: bool = False):
        super().__init__()
        self.joint = joint
        self.history: list[list[float]] = []
        self.reset()

    def before_eval(self, strategy: Learner) -> None:
        """New embeddings."""
        self.reset()

    def after_eval_iteration(self, strategy: Learner) -> None:
        """Keep this batch's embeddings with their experience."""
        audio, video = (x.float().cpu() for x in strategy.mb_output)
        held = self._parts.setdefault(strategy.experience.current_experience, ([], []))
        held[0].append(audio)
        held[1].append(video)

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Extend the task matrix; not within a task."""
        if strategy.batches_done or not strategy.tasks_done or not self._parts:
            return []
        self.history.append(self.result()["gaps"])
        found, step = gap_summaries(self.history, self.joint), strategy.clock.train_iterations
        shown = {f"eval/modality_gap/{key}": value for key, value in found.items() if value is not None}
        return [MetricValue(self, name, value, step) for name, value in shown.items()]

    def result(self) -> dict[str, Any]:
        """The gap of each task, over the clips kept so far."""
        parts = [self._parts[task] for task in sorted(self._parts)]
        return {"gaps": [modality_gap(torch.cat(audio), torch.cat(video)) for audio, video in parts]}

    def reset(self) -> None:
        """Forget the embeddings; the history stays."""
        self._parts: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def results(self) -> dict[str, Any]:
        """The task matrix and its summaries after every task."""
        found = [gap_summaries(self.history[: after + 1], self.joint) for after in range(len(self.history))]
        return {"matrix": self.history} | {key: [one[key] for one in found] for key in (found[0] if found else ())}

    def state_dict(self) -> dict[str, Any]:
        """The task matrix so far."""
        return {"history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the task matrix of ``state``."""
        self.history = state["history"]

    def __str__(self) -> str:
        return "modality_gap"
