"""Audio-video classification: a two-layer head on frozen joint features (the paper's VGGSound classification).

Lee et al., *STELLA*, ICML 2024, arXiv 2310.08204; head and hyper-parameters of the authors' code.
How we differ: epochs can take turns with a few augmented ``views`` of each clip, whose features are computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from numpy.random import Generator
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from avcl.data.log_mel import spec_augment
from avcl.evaluation.accuracy import per_task, places, top_k, top_k_chance
from avcl.evaluation.features import Features, View, all_clips, chosen, features
from avcl.evaluation.head import HeadEvaluation, best_epoch
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.hookspecs import hookimpl
from avcl.settings import Fraction

KS = (1, 5)


@dataclass(kw_only=True)
class Classification(HeadEvaluation):
    """Classification of clips into the classes of all tasks, by a two-layer head on frozen joint features.

    Features: mean of the normed joint audio tokens beside that of the video tokens. Training clips are augmented as in
    the scenario's training, then by SpecAugment. Where recordings are longer than a clip, predictions of several
    windows are averaged. The best epoch is chosen by the score itself, as published. Chance is a uniform guess.

    Args:
        windows: Windows of a recording, evenly spread, whose predicted probabilities are averaged.
        mask_mels: SpecAugment: most that is masked of the mel axis, as a share (paper: 48 of 128).
        mask_times: SpecAugment: most that is masked of the time axis, as a share (paper: 192 of 1024).
        views: Augmented views of each training clip, computed once; null for a new one in every epoch, as published.
        train_clips: Training clips at most, a random choice that is always the same; null for all.
    """

    name: ClassVar[str] = "classification"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"synthetic": {"views": 2, "train_clips": 2048}}

    windows: PositiveInt = 4
    mask_mels: Fraction = 48 / 128
    mask_times: Fraction = 192 / 1024
    views: PositiveInt | None = None
    train_clips: PositiveInt | None = None

    def evaluate(self, model: Frozen) -> Scores:
        """Train the head on the training clips of all tasks, score it on the evaluation clips."""
        data = all_clips(model, "train")
        numbers = chosen(data, self.train_clips)

        @functools.lru_cache(maxsize=self.views or 1)
        def view(epoch: int) -> Features:
            return features(model, data, "joint", View(epoch=epoch, mask=self._mask), numbers)

        first = view(0)
        classes = first.label.unique()
        if len(classes) < 2:
            raise self.unsuited(model.scenario, "two classes at least")
        target, _ = places(classes, first.label)
        held_out = self._held_out(model)
        truth, known = places(classes, held_out[0].label)
        if not known.any():
            raise self.unsuited(model.scenario, "class of their training clips among those to evaluate on")
        truth, task = truth[known], held_out[0].task[known]
        shown = [part.values[known].to(model.device) for part in held_out]
        head = classifier(first.values.shape[1], len(classes)).to(model.device)

        def loss(rows: Tensor, epoch: int) -> Tensor:
            found = view(epoch % self.views if self.views else epoch)
            place, there = places(found.number, first.number[rows])  # a clip may fail in another window
            values, wanted = found.values[place[there]].to(model.device), target[rows[there]].to(model.device)
            return cross_entropy(head(values), wanted, label_smoothing=self.label_smoothing)

        def hits() -> Tensor:
            probabilities = torch.stack([head(values).softmax(1) for values in shown]).mean(0)
            return top_k(probabilities.cpu(), truth, KS)

        history = self.fit(head, len(first.values), loss, lambda: float(hits()[:, 0].mean()), model.seed)
        with torch.no_grad():
            found = hits()
        return Scores(
            scores={f"top{k}": float(found[:, column].double().mean()) for column, k in enumerate(KS)},
            chance={f"top{k}": top_k_chance(len(classes), k) for k in KS},
            clips=len(truth),
            details={
                "classes": len(classes),
                "training_clips": len(first.values),
                "per_task": {"top1": per_task(found[:, 0], task, model.scenario.task_names)},
                **best_epoch(history),
            },
        )

    def _mask(self, mel: Tensor, generator: Generator) -> Tensor:
        return spec_augment(mel, generator, self.mask_mels, self.mask_times)

    def _held_out(self, model: Frozen) -> list[Features]:
        """The evaluation clips, each in all windows in which it can be used."""
        data, count = all_clips(model, "eval"), self.windows if model.scenario.windowed else 1
        views = [View(window=(k, count)) if count > 1 else View() for k in range(count)]
        found = [features(model, data, "joint", view) for view in views]
        everywhere = found[0].number[[all(n in other.number for other in found) for n in found[0].number]]
        kept = [torch.isin(part.number, everywhere) for part in found]
        return [Features(*(column[rows] for column in part)) for part, rows in zip(found, kept, strict=True)]


def classifier(dim: int, classes: int) -> nn.Sequential:
    """The authors' head on features of width ``dim``: a pooler, then two layers."""
    return nn.Sequential(
        nn.Linear(dim, dim),
        nn.Tanh(),
        nn.Linear(dim, dim),
        nn.LayerNorm(dim),
        nn.GELU(),
        nn.Linear(dim, classes),
    )


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [Classification]
