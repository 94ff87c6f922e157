"""A linear classifier of frozen features, by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from avcl.evaluation.probes import Probe
from avcl.evaluation.protocol import Evaluation
from avcl.hookspecs import hookimpl


@dataclass(kw_only=True)
class LinearProbe(Probe):
    """Linear classification of frozen features: logistic regression on standardized features.

    Args:
        regularization: Inverse strength of the L2 penalty (C of scikit-learn); less is stronger.
        iterations: Iterations of L-BFGS at most.
    """

    name: ClassVar[str] = "linear_probe"

    regularization: PositiveFloat = 1.0
    iterations: PositiveInt = 1000

    def predict(self, values: np.ndarray, classes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The most probable class."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.regularization, max_iter=self.iterations))
        return model.fit(values.astype(np.float64), classes).predict(asked.astype(np.float64))


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [LinearProbe]
