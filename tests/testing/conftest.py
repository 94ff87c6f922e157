"""Who breaks a promise is named, with the promise and what was found, in one line."""

import pytest

from avcl.testing import BrokenPromise


@pytest.fixture
def caught():
    """``caught(check, make, promise, text)``: the whole check names this promise, and says this about it."""

    def caught(check, make, promise, text):
        with pytest.raises(BrokenPromise) as error:
            check(make)
        told = str(error.value)
        assert " breaks a promise (" in told
        assert f"({' '.join(promise.__doc__.split())}): " in told
        assert text in told
        assert "\n" not in told

    return caught
