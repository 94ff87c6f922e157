"""Small real parts that many tests share: a stream of random clips, a backbone of a few thousand weights."""

from pathlib import Path

import pytest
import torch
from helpers.toys import small_learner

from avcl.testing import Noise

torch.set_num_threads(1)

TESTS = Path(__file__).parent
MARKED = {
    "media": ("data", "bench", "scenarios/test_folder.py", "scenarios/test_continual.py", "scenarios/test_one_task.py"),
    "process": (
        *("cli", "experiment", "integration", "testing", "plugins/test_identities.py", "plugins/test_pairs.py"),
        *("training/test_verdicts.py", "training/test_callbacks.py"),
    ),
    "native": ("native",),
}
"""The marker of each folder or file; what is left is the fast core."""


def pytest_collection_modifyitems(config, items):
    """Mark by folder; slow tests run only where ``-m`` asks for them."""
    for item in items:
        place = item.path.relative_to(TESTS)
        for marker, places in MARKED.items():
            if any(place.is_relative_to(part) for part in places):
                item.add_marker(marker)
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture
def noise():
    """Two tasks of 16 clips."""
    return Noise()


@pytest.fixture
def make_learner():
    """A learner on a small backbone: ``make_learner(strategy, dtype=..., **settings)``."""
    return small_learner
