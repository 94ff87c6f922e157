"""Contract checks of third-party components, each a function that a test calls."""

from avcl.testing.backbone import check_backbone
from avcl.testing.metric import check_metric
from avcl.testing.promises import BrokenPromise
from avcl.testing.scenario import check_scenario
from avcl.testing.strategy import check_strategy
from avcl.testing.toys import Noise, small_backbone

__all__ = [
    "BrokenPromise",
    "Noise",
    "check_backbone",
    "check_metric",
    "check_scenario",
    "check_strategy",
    "small_backbone",
]
