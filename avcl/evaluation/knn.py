"""Nearest neighbours among frozen features, by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from avcl.errors import UserError
from avcl.evaluation.probes import Probe
from avcl.evaluation.protocol import Evaluation
from avcl.hookspecs import hookimpl


@dataclass(kw_only=True)
class NearestNeighbours(Probe):
    """k-nearest-neighbour classification by cosine similarity on frozen features.

    Neighbours vote with weights exp(similarity / temperature), as in Wu et al., *Unsupervised Feature Learning via
    Non-Parametric Instance Discrimination*, CVPR 2018, arXiv 1805.01978.

    Args:
        neighbours: Nearest training clips that vote (k).
        temperature: Temperature of the votes; as it grows, all count alike.
    """

    name: ClassVar[str] = "knn"

    neighbours: PositiveInt = 20
    temperature: PositiveFloat = 0.07

    def predict(self, values: np.ndarray, classes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The class with the largest weighted vote; of equal ones the lowest."""
        from sklearn.neighbors import KNeighborsClassifier

        def weights(distance: np.ndarray) -> np.ndarray:
            return np.exp(-distance / self.temperature)  # 1 - cosine: a factor e^(1/temperature) for all

        if self.neighbours > len(values):
            raise UserError(f"{self.name}.neighbours: {self.neighbours} is more than the {len(values)} training clips")
        model = KNeighborsClassifier(self.neighbours, metric="cosine", algorithm="brute", weights=weights)
        return model.fit(values.astype(np.float64), classes).predict(asked.astype(np.float64))


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [NearestNeighbours]
