"""STELLA's scores and draws against their definitions, literal walks and known answers."""

import math

import pytest
import torch
from torch import Tensor

from avcl.plugins.stella.ops.philox import Use, words
from avcl.plugins.stella.ops.reference import BLOCK, race
from avcl.plugins.stella.ops.selection import (
    correlation,
    leading,
    pooled_query,
    prune,
    sample,
    select_audio,
    select_chunks,
)


def heads(*lengths: int, batch: int = 3, count: int = 4, width: int = 8, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(batch, count, length, width, dtype=torch.float64) for length in lengths]


# ---- scores ----


def test_leading_takes_the_largest_and_the_earlier_of_equals():
    scores = torch.tensor([[0.1, 0.4, 0.1, 0.4, 0.0]])
    assert leading(scores, 4).tolist() == [[1, 3, 0, 2]]


def test_pooled_query_by_hand():
    query = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]], [[2.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]])
    weight = torch.tensor([[0.3, 0.1, 0.6]])
    pooled = pooled_query(query, weight, torch.tensor([[1, 0]]))
    torch.testing.assert_close(pooled, torch.tensor([[[0.75, 0.25], [1.5, 0.5]]]))


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_correlation_equals_the_form_with_gathered_attention_maps(temperature):
    """As the authors compute it: weighted rows of two maps, softmax over the stacked pair, past first."""
    clips = BLOCK + 3
    now_query, past_query, key = heads(7, 7, 9, batch=clips)
    now_weight, past_weight = torch.rand(clips, 7).double(), torch.rand(clips, 7).double()
    now_rows, past_rows = leading(now_weight, 3), leading(past_weight, 3)
    top = leading(torch.rand(clips, 9), 5)

    def answer(query: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
        attention = query @ key.mT * 0.3 / temperature
        attention = attention.gather(2, rows[:, None, :, None].expand(-1, 4, -1, 9))
        attention = attention.gather(3, top[:, None, None].expand(-1, 4, rows.shape[1], -1))
        share = weight.gather(1, rows)
        share = share / share.sum(1, keepdim=True)
        return (attention * share[:, None, :, None]).sum(2)

    pair = torch.stack([answer(past_query, past_weight, past_rows), answer(now_query, now_weight, now_rows)])
    expected = torch.zeros(clips, 9).double().scatter(1, top, pair.softmax(0)[0].mean(1))
    past, now = pooled_query(past_query, past_weight, past_rows), pooled_query(now_query, now_weight, now_rows)
    found = correlation(key, past, now, top, 0.3, temperature)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert (found > 0).sum(1).tolist() == clips * [5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_correlation_in_other_types(dtype):
    """Computed in float32; what is NaN spoils its own patch alone."""
    key, query = (x.to(dtype) for x in heads(9, 2))
    past, now = (x.float() for x in query.unbind(2))
    top = leading(torch.rand(3, 9), 5)
    exact = correlation(key.double(), 30 * past, now, top, 0.3)
    key[0, :, top[0, 2]] = math.nan
    exact[0, top[0, 2]] = math.nan
    found = correlation(key, 30 * past, now, top, 0.3)
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=5e-6, equal_nan=True)


# ---- draws ----
def test_prune_keeps_certainties_and_frequencies():
    chance = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).expand(40_000, -1)
    pruned = prune(chance, seed=1, use=Use.PRUNE_VIDEO, index=torch.arange(40_000))
    share = pruned.double().mean(0)
    assert share[0] == 0 and share[4] == 1
    for found, p in zip(share[1:4].tolist(), (0.1, 0.5, 0.9), strict=True):
        assert abs(found - p) < 4 * math.sqrt(p * (1 - p) / 40_000)


def test_race_has_the_law_of_multinomial():
    """First places, and ordered pairs of first and second, against exact probabilities and torch.multinomial."""
    rows, weight = 60_000, torch.tensor([0.1, 0.2, 0.3, 0.4])
    order = race(weight.expand(rows, -1), seed=11, use=Use.VIDEO, index=torch.arange(rows))
    assert torch.equal(order.sort(1).values, torch.arange(4).expand(rows, -1))
    torch.manual_seed(0)
    drawn = torch.multinomial(weight.expand(rows, -1), 4)
    for first in range(4):
        for second in set(range(4)) - {first}:
            p = (weight[first] * weight[second] / (1 - weight[first])).item()
            sigma = math.sqrt(p * (1 - p) / rows)
            ours, theirs = (((x[:, 0] == first) & (x[:, 1] == second)).double().mean().item() for x in (order, drawn))
            assert abs(ours - p) < 4 * sigma
            assert abs(ours - theirs) < 4 * math.sqrt(2) * sigma


def test_sample_never_takes_a_pruned_patch_while_others_are_left():
    torch.manual_seed(0)
    weight, pruned = torch.rand(500, 20), torch.rand(500, 20) < 0.4
    weight[:, ::3] = 0  # without importance is not pruned
    index = torch.arange(500)
    chosen = sample(weight, pruned, 6, seed=2, use=Use.VIDEO, index=index)
    enough = (~pruned).sum(1) >= 6
    assert enough.float().mean() > 0.9
    assert not pruned.gather(1, chosen)[enough].any()
    everything = sample(weight, pruned, 20, seed=2, use=Use.VIDEO, index=index)
    ahead = pruned.gather(1, everything).long()
    assert (ahead.diff(dim=1) >= 0).all(), "pruned ones come last"
    last = everything[pruned.sum(1) > 1][:, -1]
    assert len(last.unique()) > 10, "in random order"


@pytest.mark.parametrize("keep", [0, 8])
def test_none_and_all_can_be_kept(keep):
    weight, none = torch.rand(2, 8), torch.zeros(2, 8, dtype=torch.bool)
    draw = {"seed": 1, "index": torch.tensor([7, 2**40])}
    for chosen in (
        leading(weight, keep),
        sample(weight, none, keep, use=Use.VIDEO, **draw),
        select_chunks(weight, none, keep, 4, **draw),
        select_audio(weight, none, keep, freqs=2, chunk=2, along="frequency", **draw),
    ):
        assert chosen.sort(1).values.tolist() == 2 * [list(range(keep))]


# ---- Algorithm 1 ----
def walk(weight: Tensor, pruned: Tensor, keep: int, chunk: int, cut: str, *, seed: int, index: int) -> set[int]:
    """The printed algorithm for one clip, literally: chunk by chunk, patch by patch."""
    chunks = len(weight) // chunk
    number = torch.tensor([index])
    mean = weight.view(chunks, chunk).mean(1)[None]
    order = race(mean, seed=seed, use=Use.AUDIO, index=number)[0].tolist()
    coins = words(seed, Use.CUT, number, chunks)[0]
    kept: set[int] = set()
    taken: list[int] = []
    for turn in order:
        members = [p for p in range(turn * chunk, (turn + 1) * chunk) if not pruned[p]]
        too_many = len(kept) + len(members) - keep
        if too_many > 0:
            before, after = turn - 1 in taken, turn + 1 in taken
            if cut == "tail" or (before and not after):
                head = False
            elif after and not before:
                head = True
            else:
                head = bool(coins[turn] < 2**31)
            return kept | set(members[too_many:] if head else members[: len(members) - too_many])
        kept |= set(members)
        taken.append(turn)
    return kept


@pytest.mark.parametrize("cut", ["neighbours", "tail"])
@pytest.mark.parametrize(("patches", "chunk", "keep", "rate"), [(64, 8, 32, 0.3), (60, 4, 17, 0.5), (12, 12, 5, 0.2)])
def test_chunks_equal_a_literal_walk(cut, patches, chunk, keep, rate):
    torch.manual_seed(patches)
    weight, pruned = torch.rand(200, patches), torch.rand(200, patches) < rate
    index = torch.randperm(10**6)[:200]
    chosen = select_chunks(weight, pruned, keep, chunk, cut, seed=9, index=index)
    assert chosen.shape == (200, keep)
    for row in range(200):
        expected = walk(weight[row], pruned[row], keep, chunk, cut, seed=9, index=int(index[row]))
        left = int((~pruned[row]).sum())
        assert len(expected) == min(keep, left)
        assert set(chosen[row, : len(expected)].tolist()) == expected


def clip_drawn(order: list[int]) -> dict:
    """Of equal weights, a clip whose chunks are drawn in this order and whose coins show heads for even chunks."""
    index = torch.arange(200_000)
    coins = words(0, Use.CUT, index, len(order)) < 2**31
    drawn = race(torch.ones(len(index), len(order)), seed=0, use=Use.AUDIO, index=index)
    even = torch.arange(len(order)) % 2 == 0
    fits = (drawn == torch.tensor(order)).all(1) & (coins == even).all(1)
    return {"seed": 0, "index": index[fits][:1]}


@pytest.mark.parametrize(
    ("order", "cut", "expected"),  # six or ten to keep
    [
        ([0, 1, 2, 3], "tail", [0, 1, 2, 3, 4, 5]),
        ([0, 1, 2, 3], "neighbours", [0, 1, 2, 3, 4, 5]),  # the left neighbour was taken: the tail goes
        ([2, 1, 0, 3], "tail", [4, 5, 8, 9, 10, 11]),
        ([2, 1, 0, 3], "neighbours", [6, 7, 8, 9, 10, 11]),  # the right one: the head goes
        ([1, 3, 0, 2], "tail", [4, 5, 6, 7, 12, 13]),
        ([0, 2, 1, 3], "neighbours", [0, 1, 2, 3, 10, 11]),  # chunk 2 has none, its coin says head
        ([1, 3, 0, 2], "neighbours", [4, 5, 6, 7, 12, 13]),  # chunk 3 has none, its coin says tail
        ([0, 2, 1, 3], "neighbours", [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]),  # chunk 1 has two, its coin says tail
    ],
)
def test_chunks_by_hand(order, cut, expected):
    """Four chunks of four: the last that is taken is cut in half."""
    none, keep = torch.zeros(1, 16, dtype=torch.bool), len(expected)
    chosen = select_chunks(torch.ones(1, 16), none, keep, 4, cut, **clip_drawn(order))
    assert chosen.tolist() == [expected]


def test_too_few_survivors_are_filled_up_with_pruned_ones_in_order():
    pruned = torch.ones(1, 12, dtype=torch.bool)
    pruned[0, [9, 3]] = False
    chosen = select_chunks(torch.rand(1, 12), pruned, 5, 4, seed=0, index=torch.tensor([0]))
    assert chosen.tolist() == [[3, 9, 0, 1, 2]]


def test_audio_chunks_run_along_the_axis_that_is_asked_for():
    """A grid of 8 times x 4 frequencies, half to keep: whole rows, whole columns, or neither."""
    none, index = torch.zeros(50, 32, dtype=torch.bool), torch.arange(50)
    torch.manual_seed(0)
    weight = torch.rand(50, 32)

    def grid(along: str, chunk: int) -> Tensor:
        chosen = select_audio(weight, none, 16, freqs=4, chunk=chunk, along=along, seed=1, index=index)
        return torch.zeros(50, 32).scatter(1, chosen, 1.0).view(50, 8, 4)

    times = grid("time", 2)
    assert torch.equal(times, times[:, :, :1].expand(-1, -1, 4))
    assert torch.equal(times[:, ::2], times[:, 1::2])
    freqs = grid("frequency", 2)
    assert torch.equal(freqs, freqs[:, :1].expand(-1, 8, -1))
    assert torch.equal(freqs[..., ::2], freqs[..., 1::2])
    assert len({tuple(row) for row in freqs[:, 0].tolist()}) == 2
    free = grid("unconstrained", 2)
    assert (free.sum((1, 2)) == 16).all()
    assert not torch.equal(free[:, ::2], free[:, 1::2])


def test_draws_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    weight, pruned = torch.rand(20, 32), torch.rand(20, 32) < 0.3
    index, order = torch.randperm(1000)[:20], torch.randperm(20)

    def draws(rows: Tensor) -> list[Tensor]:
        to = {"seed": 4, "index": index[rows]}
        return [
            prune(weight[rows], use=Use.PRUNE_AUDIO, **to),
            sample(weight[rows], pruned[rows], 12, use=Use.VIDEO, **to),
            select_audio(weight[rows], pruned[rows], 12, freqs=4, chunk=2, **to),
        ]

    whole = draws(torch.arange(20))
    for together, alone in zip(
        whole, zip(*(draws(torch.tensor([row])) for row in range(20)), strict=True), strict=True
    ):
        assert torch.equal(together, torch.cat(alone))
    for together, shuffled in zip(whole, draws(order), strict=True):
        assert torch.equal(together[order], shuffled)
