"""Zero-shot retrieval, audio to video and back, per task and over the stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from avcl.compat import MetricValue, PluginMetric
from avcl.metrics.continual import average, forgetting, forgetting_with_last
from avcl.training.learner import Learner

SUMMARIES = {"average": average, "forgetting": forgetting, "forgetting_with_last": forgetting_with_last}


def recall_at(similarity: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether each query finds its own item among the k nearest, (Q, len(ks)) in percent.

    ``similarity (Q, G)``: query q belongs to item q. Among items of equal similarity the order is random:
    the expected hit is returned, so that a collapsed embedding is at chance.
    """
    own = similarity.diagonal()[:, None]
    nearer = (similarity > own).sum(1, keepdim=True)
    equal = (similarity == own).sum(1, keepdim=True)
    return 100 * ((torch.tensor(ks, device=similarity.device) - nearer) / equal).clamp(0, 1)


class Retrieval(PluginMetric[dict[str, Any]]):
    """Recall at 1, 5 and 10 of every task's clips in the gallery of all tasks, audio to video and back.

    Cosine similarity of unmasked embeddings; "mean" is the mean of the three recalls. After every
    evaluation of the whole stream: tags ``eval/<a2v|v2a>/<R@k>/<task>``, ``.../average``,
    ``.../forgetting`` (Chaudhry's), ``.../forgetting_with_last`` (the STELLA authors'). ``history`` is the
    task matrix: a row for each evaluation. ``joint``: all tasks were trained on at once, so that the average
    is over all of them from the first evaluation on, and nothing is forgotten.
    """

    def __init__(self, tasks: Sequence[str] | None = None, ks: Sequence[int] = (1, 5, 10), joint: bool = False):
        super().__init__()
        self.tasks, self.ks, self.joint = tasks, tuple(ks), joint
        self.history: dict[str, list[list[float]]] = {}
        self.gallery = 0
        self.reset()

    def before_eval(self, strategy: Learner) -> None:
        """A new gallery."""
        self.reset()

    def after_eval_iteration(self, strategy: Learner) -> None:
        """Keep this batch's embeddings with their experience."""
        audio, video = (normalize(x.float(), dim=-1).cpu() for x in strategy.mb_output)
        self._parts.append((strategy.experience.current_experience, audio, video))

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Rank every clip in the gallery of all; extend the task matrix."""
        if not self._parts:
            return []
        values = self.result()
        for key, row in values.items():
            self.history.setdefault(key, []).append(row)
        step = strategy.clock.train_iterations
        shown = {f"eval/{key}/{self._name(i)}": x for key, row in values.items() for i, x in enumerate(row)}
        for key in values:
            for name in SUMMARIES:
                value = self._summary(name, self.history[key])
                if value is not None:
                    shown[f"eval/{key}/{name}"] = value
        return [MetricValue(self, name, value, step) for name, value in shown.items()]

    def result(self) -> dict[str, list[float]]:
        """Percent by measure (``a2v/R@1``, ...), one value for each task, over the clips kept so far."""
        task = torch.cat([torch.full((len(a),), number) for number, a, _ in self._parts])
        audio, video = torch.cat([a for _, a, _ in self._parts]), torch.cat([v for _, _, v in self._parts])
        self.gallery = len(task)
        table = {}
        for name, similarity in (("a2v", audio @ video.T), ("v2a", video @ audio.T)):
            hits = recall_at(similarity, self.ks)
            rows = torch.stack([hits[task == number].double().mean(0) for number in task.unique()])
            for column, k in enumerate(self.ks):
                table[f"{name}/R@{k}"] = rows[:, column].tolist()
            table[f"{name}/R@mean"] = rows.mean(1).tolist()
        return table

    def reset(self) -> None:
        """Forget the gallery; the history stays."""
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def results(self) -> dict[str, Any]:
        """Everything for ``results.json``: the task matrix of every measure and its summaries over time."""
        measures = {}
        for key, rows in self.history.items():
            over_time = {name: [self._summary(name, rows[: t + 1]) for t in range(len(rows))] for name in SUMMARIES}
            measures[key] = {"matrix": rows, **over_time} | ({"after": ["all tasks"] * len(rows)} if self.joint else {})
        chance = {f"R@{k}": 100 * min(k / self.gallery, 1) for k in self.ks} if self.gallery else {}
        return {"gallery": self.gallery, "chance": chance, "measures": measures}

    def state_dict(self) -> dict[str, Any]:
        """The task matrix so far."""
        return {"history": self.history, "gallery": self.gallery}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the task matrix of ``state``."""
        self.history, self.gallery = state["history"], state["gallery"]

    def _summary(self, name: str, rows: list[list[float]]) -> float | None:
        if self.joint:
            return sum(rows[-1]) / len(rows[-1]) if name == "average" else None
        return SUMMARIES[name](rows)

    def _name(self, task: int) -> str:
        return self.tasks[task] if self.tasks else f"task{task}"

    def __str__(self) -> str:
        return "retrieval"
