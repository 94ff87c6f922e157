"""The contracts of third-party components, each a function that a test calls."""

from avcl.testing.strategy import check_strategy
from avcl.testing.toys import Noise, small_backbone

__all__ = ["Noise", "check_strategy", "small_backbone"]
