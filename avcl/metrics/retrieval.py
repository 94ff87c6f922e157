"""Zero-shot retrieval, audio to video and back, per task and over the stream."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from avcl.compat import MetricValue, PluginMetric
from avcl.metrics.chance import median_rank_chance, recall_chance
from avcl.metrics.continual import Matrix, anytime, summaries, worst_drop
from avcl.training.learner import Learner

MEDIAN = "median_rank"


def recall_at(similarity: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether each query finds its own item among the k nearest, (Q, len(ks)) in percent.

    ``similarity (Q, G)``: query q belongs to item q. Among items of equal similarity the order is random:
    the expected hit is returned, so that a collapsed embedding is at chance.
    """
    nearer, equal = _places(similarity)
    return 100 * ((torch.tensor(ks, device=similarity.device) - nearer) / equal).clamp(0, 1)


def expected_rank(similarity: Tensor) -> Tensor:
    """Rank of each query's own item, (Q,), counted from 1; items of equal similarity share their mean rank."""
    nearer, equal = _places(similarity)
    return (nearer + (equal + 1) / 2)[:, 0]


def retrieval_scores(
    task: Tensor, audio: Tensor, video: Tensor, ks: Sequence[int]
) -> tuple[dict[str, list[float]], list[int]]:
    """Value by measure (``a2v/R@1``, ... in percent), one for each task in ascending order, and queries of each.

    ``task (N,)`` of every clip; its embeddings ``audio`` and ``video (N, D)``, normalised. All clips are the gallery.
    """
    groups = [task == number for number in task.unique()]
    table = {}
    for name, similarity in (("a2v", audio @ video.T), ("v2a", video @ audio.T)):
        hits, rank = recall_at(similarity, ks), expected_rank(similarity).double()
        rows = torch.stack([hits[group].double().mean(0) for group in groups])
        for column, k in enumerate(ks):
            table[f"{name}/R@{k}"] = rows[:, column].tolist()
        table[f"{name}/R@mean"] = rows.mean(1).tolist()
        table[f"{name}/{MEDIAN}"] = [float(rank[group].quantile(0.5)) for group in groups]
    return table, [int(group.sum()) for group in groups]


def _places(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """How many items are nearer than a query's own, and how many equally near with itself, (Q, 1) each.

    A query or an item that is not a number is never a hit.
    """
    own = similarity.diagonal()[:, None]
    nearer = (~(similarity <= own)).sum(1, keepdim=True)
    return nearer, (similarity == own).sum(1, keepdim=True).clamp(min=1)


def chance_of(key: str, ks: Sequence[int], gallery: int) -> tuple[float, float]:
    """Chance of a measure of ``retrieval_scores``, and its deviation; ``ks``: those of the mean recall."""
    name = key.partition("/")[2]
    if name == MEDIAN:
        return median_rank_chance(gallery)
    return recall_chance(ks if name == "R@mean" else (int(name[2:]),), gallery)


class Retrieval(PluginMetric[dict[str, Any]]):
    """Recall at 1, 5 and 10 and median rank of every task's clips in the gallery of all tasks, both ways.

    Cosine similarity of unmasked embeddings; "mean" is the mean of the three recalls. After every
    evaluation of the whole stream: tags ``eval/<a2v|v2a>/<R@k|R@mean|median_rank>/<task>``, ``.../average``,
    ``.../learning_accuracy``, ``.../forgetting`` (Chaudhry's), ``.../forgetting_with_last`` (the STELLA authors'),
    ``.../chance``, and ``eval/gallery``. ``history`` is the task matrix: a row for each evaluation. ``joint``: all
    tasks were trained on at once, so that the average is over all of them from the first evaluation on, and
    nothing is forgotten. Evaluations within a task go to ``anytime`` alone: tag ``.../anytime``, the average over the
    tasks that had begun.

    ``leave_out``: labels of clips that are neither queries nor in the gallery. ``name``: another one than the default
    is in the tags too, ``eval/<name>/...``.
    """

    def __init__(
        self,
        tasks: Sequence[str] | None = None,
        ks: Sequence[int] = (1, 5, 10),
        joint: bool = False,
        leave_out: Collection[int] = (),
        name: str = "retrieval",
    ):
        super().__init__()
        self.tasks, self.ks, self.joint = tasks, tuple(ks), joint
        self.leave_out, self.name = torch.tensor(sorted(leave_out), dtype=torch.long), name
        self.tag = "eval" if name == "retrieval" else f"eval/{name}"
        self.history: dict[str, list[list[float]]] = {}
        self.anytime: dict[str, list[list[float]]] = {}
        self.moments: list[tuple[int, int]] = []
        self.queries: list[int] = []
        self.reset()

    @property
    def gallery(self) -> int:
        """Clips among which is retrieved: every one is a query, too."""
        return sum(self.queries)

    def before_eval(self, strategy: Learner) -> None:
        """A new gallery."""
        self.reset()

    def after_eval_iteration(self, strategy: Learner) -> None:
        """Keep this batch's embeddings with their experience."""
        audio, video = (normalize(x.float(), dim=-1).cpu() for x in strategy.mb_output)
        if len(self.leave_out):
            kept = ~torch.isin(strategy.batch.label.cpu(), self.leave_out)
            audio, video = audio[kept], video[kept]
        self._parts.append((strategy.experience.current_experience, audio, video))

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Rank every clip in the gallery of all; extend the task matrix."""
        if not self._parts:
            return []
        values = self.result()
        shown: dict[str, float] = {f"{self.tag}/gallery": self.gallery}
        within = strategy.batches_done > 0
        self.moments.append((strategy.steps, max(1, strategy.tasks_done + within)))
        for key, row in values.items():
            self.anytime.setdefault(key, []).append(row)
            shown |= {f"{self.tag}/{key}/{self._name(i)}": x for i, x in enumerate(row)}
            last: dict[str, float | None] = {}
            if not within:
                rows = self.history.setdefault(key, [])
                rows.append(row)
                last |= {**self._summaries(key, rows), "chance": self._chance(key)["chance"]}
            if len(self.moments) > len(self.history.get(key, ())):  # not task ends alone
                last["anytime"] = anytime(self.anytime[key], self._seen)[-1]
            shown |= {f"{self.tag}/{key}/{name}": value for name, value in last.items() if value is not None}
        return [MetricValue(self, name, value, strategy.clock.train_iterations) for name, value in shown.items()]

    def result(self) -> dict[str, list[float]]:
        """Value by measure (``a2v/R@1``, ... in percent), one for each task, over the clips kept so far."""
        task = torch.cat([torch.full((len(a),), number) for number, a, _ in self._parts])
        audio, video = torch.cat([a for _, a, _ in self._parts]), torch.cat([v for _, _, v in self._parts])
        table, self.queries = retrieval_scores(task, audio, video, self.ks)
        return table

    def reset(self) -> None:
        """Forget the gallery; the history stays."""
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def results(self) -> dict[str, Any]:
        """Everything for ``results.json``: the task matrix of every measure, its summaries over time, its chance."""
        measures = {}
        for key, rows in self.history.items():
            over_time = [self._summaries(key, rows[: t + 1]) for t in range(len(rows))]
            summary = {name: [found[name] for found in over_time] for name in over_time[0]}
            measures[key] = {"matrix": rows, **summary, "queries": self.queries, **self._chance(key)}
            if len(self.moments) > len(rows):
                measures[key]["anytime"] = self._anytime(key)
            if self.joint:
                measures[key]["after"] = ["all tasks"] * len(rows)
        chance = {key.partition("/")[2]: measure["chance"] for key, measure in measures.items()}
        return {"gallery": self.gallery, "queries": self.queries, "chance": chance, "measures": measures}

    def state_dict(self) -> dict[str, Any]:
        """The task matrix so far."""
        return {"history": self.history, "queries": self.queries, "anytime": self.anytime, "moments": self.moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the task matrix of ``state``."""
        self.history, self.queries = state["history"], state["queries"]
        self.anytime, self.moments = state["anytime"], state["moments"]

    def _chance(self, key: str) -> dict[str, Any]:
        """What a measure is at chance, in which gallery, and which way it gets better."""
        chance, deviation = chance_of(key, self.ks, self.gallery)
        about = {"gallery": self.gallery, "chance": chance, "chance_deviation": deviation}
        return {**about, "higher_is_better": not key.endswith(MEDIAN)}

    @property
    def _seen(self) -> list[int]:
        """How many tasks had begun at each evaluation; of joint training all of them."""
        return [len(self.queries) if self.joint else tasks for _, tasks in self.moments]

    def _anytime(self, key: str) -> dict[str, Any]:
        """The curve of the average over tasks that had begun, its mean, and the worst drop of any of them."""
        rows, sign = self.anytime[key], -1 if key.endswith(MEDIAN) else 1
        curve = anytime(rows, self._seen)
        drop = worst_drop(sign * np.asarray(rows, dtype=float), self._seen)
        return {
            "steps": [step for step, _ in self.moments],
            "average": curve,
            "average_anytime": sum(curve) / len(curve),
            "worst_drop": drop,
        }

    def _summaries(self, key: str, rows: Matrix) -> dict[str, float | None]:
        found = summaries(rows, higher_is_better=not key.endswith(MEDIAN))
        if not self.joint:
            return found
        return dict.fromkeys(found) | {"average": sum(rows[-1]) / len(rows[-1])}

    def _name(self, task: int) -> str:
        return self.tasks[task] if self.tasks else f"task{task}"

    def __str__(self) -> str:
        return self.name
