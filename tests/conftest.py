"""Small real parts that many tests share: a stream of random clips, a backbone of a few thousand weights."""

import pytest
import torch

from avcl.memory import Memory
from avcl.testing import Noise, small_backbone
from avcl.training.learner import Learner

torch.set_num_threads(1)


@pytest.fixture
def noise():
    """Two tasks of 16 clips."""
    return Noise()


@pytest.fixture
def make_learner():
    """A learner on a small backbone: ``make_learner(strategy, dtype=..., **settings)``."""

    def make(strategy, dtype=torch.float32, seed=0, **settings):
        defaults = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "seed": seed}
        return Learner(backbone=small_backbone(dtype, seed), strategy=strategy, **(defaults | settings))

    return make


@pytest.fixture
def small_memory():
    """A memory of 8 clips in the dtype asked for."""
    return lambda dtype="float32", capacity=8: Memory(capacity=capacity, dtype=dtype)
