"""What crosses between processes, worked out by hand; alone, nothing does."""

import pytest
import torch
from helpers.crossings import both, remembered
from helpers.processes import together

from avcl.utils import distributed

pytestmark = pytest.mark.xdist_group("distributed-utils")  # what they share is made once


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A memory of two processes."""
    return together(2, remembered, tmp_path_factory.mktemp("two"))


def saved(two):
    (_, mine, *_), (_, theirs, *_) = two
    return {**mine, "rows": [mine["rows"], theirs["rows"]]}


@pytest.fixture(scope="module")
def three(two, tmp_path_factory):
    """What crosses between three, and what they draw of the memory that the two have saved."""
    return together(3, both, tmp_path_factory.mktemp("three"), saved(two))


@pytest.mark.process
def test_rows_draws_and_means_cross_between_three_processes(three):
    found = [crossed for crossed, _ in three]
    drawn = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))  # 0 + 1 + 2 rows, then one of each
    mine = [[3], [0, 4], [1, 2, 5]]
    for rank, one in enumerate(found):
        assert one["place"] == (sum(range(rank)), 3, (0, 1, 2))
        assert one["gathered"] == [10, 20, 21]
        assert one["gradient"] == [1 + 2 + 3] * rank, "every process's loss reaches every row"
        assert one["taken"] == ([23, 2, 20], [2, 0, 2], torch.bfloat16)
        assert one["rows"] == [21, 10]
        assert one["paired"] == [[10, 20], [21, 10], [20, 21]][rank], "clips 0 to 5 with rows 0 1 2 0 1 2"
        assert torch.equal(one["rand"], drawn[mine[rank]])
        assert one["average"] == 1
        assert one["total"] == [[3.0, 3.0], None]
        assert one["any"] == (True, False)
        assert one["share"] == [slice(*[(0, 2), (2, 4), (4, 7)][rank]), slice(*[(0, 0), (0, 1), (1, 2)][rank])]
        assert one["first"] == "made by 0"
        assert one["everyone"] == [0, 1, 2]
        assert one["alone"] == (rank, (0, 4, (4,)), slice(0, 4))
    assert sum(one["mean"] for one in found) / 3 == pytest.approx((10 + 20 + 21) / 3)
    assert sum(one["balanced"] for one in found) / 3 == pytest.approx(6)


@pytest.mark.process
def test_the_replay_buffer_of_two_processes_is_that_of_one(two):
    index, state, held, full = remembered()
    (first, mine, *sizes), (second, theirs, *others) = two
    assert torch.equal(torch.cat([first, second]), index)
    assert sizes == others == [held, full]
    assert [len(x["rows"]["index"]) for x in (mine, theirs)] == [4, 3], "the remainder has a place"
    both = torch.empty(7, dtype=torch.long)
    both[0::2], both[1::2] = mine["rows"]["index"], theirs["rows"]["index"]
    assert torch.equal(both, state["rows"]["index"])


@pytest.mark.process
def test_one_and_three_processes_go_on_with_what_two_have_saved(two, three):
    _, state, *_ = remembered()
    expected = remembered(state)
    assert torch.equal(remembered(saved(two)), expected)
    assert torch.equal(torch.cat([index for _, index in three]), expected)


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert distributed.gather(rows) is rows
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
