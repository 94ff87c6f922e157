"""The reservoir: exact frequencies, nothing shared, nothing lost on the way through a file."""

import math

import pytest
import torch
from torch import Tensor

from avcl.clip import Clip
from avcl.errors import UserError
from avcl.memory import Memory


def clips(numbers, patches=4):
    """One clip for each number, every pixel of which is that number."""
    numbers, at = torch.tensor(list(numbers)), torch.arange(patches).expand(len(numbers), -1)
    value = numbers.float()[:, None, None].expand(-1, patches, 3)
    return Clip(video=value.clone(), audio=-value[..., :2], video_at=at, audio_at=at, index=numbers)


def opened(capacity, seed=0, **settings):
    memory = Memory(capacity=capacity, **settings)
    memory.open(torch.Generator().manual_seed(seed))
    return memory


def held(memory) -> Tensor:
    return memory.read(torch.arange(len(memory))).clip.index


def test_keeps_everything_in_order_while_there_is_room():
    memory = opened(6)
    memory.add(clips([3, 1, 2]))
    memory.add(clips([9]))
    assert held(memory).tolist() == [3, 1, 2, 9]
    assert (memory.seen, len(memory)) == (4, 4)


@pytest.mark.parametrize(("capacity", "seen", "rounds"), [(5, 23, 4000), (1, 2, 2000)])
def test_every_clip_stays_with_probability_capacity_over_seen(capacity, seen, rounds):
    """Algorithm R draws one of seen + 1 numbers: even the first offer after the memory is full can be discarded."""
    stays, parts = torch.zeros(seen), [clips(range(seen // 2), 1), clips(range(seen // 2, seen), 1)]
    for seed in range(rounds):
        memory = opened(capacity, seed)
        for part in parts:
            memory.add(part)
        stays[held(memory)] += 1
    share = capacity / seen
    sigma = math.sqrt(share * (1 - share) / rounds)
    assert ((stays / rounds - share).abs() < 4 * sigma).all()


def test_draws_are_distinct_uniform_and_carry_what_was_stored_beside_them():
    memory = opened(10)
    memory.add(clips(range(10)), square=torch.arange(10.0)[:, None] ** 2)
    counts = torch.zeros(10)
    for _ in range(3000):
        past = memory.sample(4)
        assert past.slots.unique().numel() == 4
        assert torch.equal(past.extra["square"][:, 0], past.clip.index.float() ** 2)
        assert torch.equal(past.clip.video[:, 0, 0], -past.clip.audio[:, 0, 0])
        counts[past.slots] += 1
    sigma = math.sqrt(0.4 * 0.6 / 3000)
    assert ((counts / 3000 - 0.4).abs() < 4 * sigma).all()


def test_asking_for_more_than_there_is_gives_all_and_an_empty_memory_says_so():
    memory = opened(8)
    with pytest.raises(ValueError, match="the memory is empty; ask len"):
        memory.sample(1)
    memory.add(clips([1, 2, 3]))
    assert sorted(memory.sample(5).clip.index.tolist()) == [1, 2, 3]


def test_capacity_zero_holds_nothing():
    memory = opened(0)
    memory.add(clips([1, 2]))
    assert (len(memory), memory.seen, memory.nbytes) == (0, 2, 0)


def test_more_clips_than_the_machine_has_memory_for_are_refused():
    memory = opened(10**15)
    with pytest.raises(UserError, match=r"^memory.capacity: 1,000,000,000,000,000 clips of \d+ bytes are more than"):
        memory.add(clips([1, 2]))


def test_what_is_stored_is_a_copy():
    memory, offered = opened(4), clips([1, 2])
    memory.add(offered)
    offered.video.zero_()
    past = memory.sample(2)
    past.clip.video.zero_()
    assert memory.read(torch.tensor([0])).clip.video.eq(1).all()


def test_write_changes_only_the_named_part_of_the_named_slots():
    memory = opened(3)
    memory.add(clips([1, 2, 3]), age=torch.zeros(3, 1))
    memory.write(torch.tensor([1]), video=torch.full((1, 4, 3), 7.0))
    all_ = memory.read(torch.arange(3))
    assert all_.clip.video[:, 0, 0].tolist() == [1, 7, 3]
    assert all_.clip.audio[:, 0, 0].tolist() == [-1, -2, -3]
    with pytest.raises(ValueError, match="nothing called 'weight' is stored; stored: video, audio"):
        memory.write(torch.tensor([0]), weight=torch.zeros(1))


def test_bytes_are_counted_and_a_budget_is_kept():
    item = 4 * 3 * 4 + 4 * 2 * 4 + 2 * 4 * 2 + 8  # pixels and mel as float32, positions as int16, the index
    memory = opened(10)
    memory.add(clips([1, 2, 3]))
    assert memory.nbytes == 3 * item
    budgeted = opened(10, budget_bytes=5 * item + 3)
    budgeted.add(clips(range(9)))
    assert len(budgeted) == 5
    assert budgeted.nbytes <= 5 * item + 3


def test_half_precision_halves_the_pixels_and_leaves_integers_alone():
    memory = opened(4, dtype="float16")
    memory.add(clips([1, 2]), count=torch.tensor([[5], [6]]))
    past = memory.sample(2)
    assert past.clip.video.dtype is torch.float16
    assert past.extra["count"].dtype is torch.int64
    assert past.clip.video_at.dtype is torch.int64


def test_later_clips_must_look_like_the_first():
    memory = opened(4)
    memory.add(clips([1]), mark=torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"the first clips came with .*mark"):
        memory.add(clips([1]))
    with pytest.raises(ValueError, match=r"mark rows of shape \(3,\); the first clips had \(2,\)"):
        memory.add(clips([1]), mark=torch.zeros(1, 3))
