"""Every Avalanche 0.6.0 quirk in one place: import Avalanche's names from here, nowhere else in avcl."""

import warnings

with warnings.catch_warnings():
    # avalanche imports its GEM plugin eagerly, which looks for a QP solver that nothing here needs
    warnings.filterwarnings("ignore", message="no QP solver found", category=UserWarning)
    from avalanche.benchmarks import CLScenario, DatasetExperience, benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset
    from avalanche.core import BaseSGDPlugin
    from avalanche.evaluation import PluginMetric
    from avalanche.evaluation.metric_results import MetricValue
    from avalanche.logging import BaseLogger, TensorboardLogger
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.templates.base_sgd import BaseSGDTemplate

__all__ = [
    "AvalancheDataset",
    "BaseLogger",
    "BaseSGDPlugin",
    "BaseSGDTemplate",
    "CLScenario",
    "DatasetExperience",
    "EvaluationPlugin",
    "MetricValue",
    "PluginMetric",
    "TensorboardLogger",
    "benchmark_from_datasets",
    "quiet_evaluator",
]


def quiet_evaluator(*metrics: PluginMetric, loggers: tuple[BaseLogger, ...] = ()) -> EvaluationPlugin:
    """An EvaluationPlugin that keeps no history: the default one keeps every value, images included.

    A call without loggers (rank above zero) does not warn.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        return EvaluationPlugin(*metrics, loggers=list(loggers), collect_all=False)
