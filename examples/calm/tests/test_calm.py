from calm import Calm

from avcl.testing import check_strategy


def test_it_keeps_every_promise_of_a_strategy():
    check_strategy(Calm)
