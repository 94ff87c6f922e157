"""What the tests of stores share."""

import pytest
from helpers.miniature import videos


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Videos of two tasks."""
    return videos(tmp_path_factory.mktemp("my videos é"))
