"""What probes of frozen features have in common: clips and classes in, accuracy out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveInt

from avcl.evaluation.accuracy import per_task, places, top_k_chance
from avcl.evaluation.features import Kind, all_clips, chosen, features
from avcl.evaluation.protocol import Evaluation, Frozen, Scores


@dataclass(kw_only=True)
class Probe(Evaluation):
    """Base of the probes: features of training clips and their classes, predictions for the evaluation clips.

    Clips are read as for evaluation, without augmentation. Chance is a uniform guess.

    Args:
        features: Mean-pooled tokens of the joint pass; of one modality alone; or of both alone, one beside the other.
        train_clips: Training clips at most, a random choice that is always the same; null for all.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"synthetic": {"train_clips": 2048}}

    features: Kind = "joint"
    train_clips: PositiveInt | None = None

    def predict(self, values: np.ndarray, classes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The classes (M,) of features ``asked (M, D)``, learned from ``values (N, D)`` and their ``classes (N,)``."""
        raise NotImplementedError

    def evaluate(self, model: Frozen) -> Scores:
        """Accuracy on the evaluation clips of all tasks."""
        data = all_clips(model, "train")
        train = features(model, data, self.features, numbers=chosen(data, self.train_clips))
        held_out = features(model, all_clips(model, "eval"), self.features)
        classes = train.label.unique()
        _, known = places(classes, held_out.label)
        if len(classes) < 2:
            raise self.unsuited(model.scenario, "two classes at least")
        if not known.any():
            raise self.unsuited(model.scenario, "class of their training clips among those to evaluate on")
        found = self.predict(train.values.numpy(), train.label.numpy(), held_out.values[known].numpy())
        hits = 100.0 * (torch.from_numpy(np.asarray(found)) == held_out.label[known])
        return Scores(
            scores={"accuracy": float(hits.double().mean())},
            chance={"accuracy": top_k_chance(len(classes), 1)},
            clips=len(hits),
            details={
                "classes": len(classes),
                "training_clips": len(train.values),
                "per_task": {"accuracy": per_task(hits, held_out.task[known], model.scenario.task_names)},
            },
        )
