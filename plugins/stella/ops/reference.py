"""The ops of the namespace ``avcl``: their schemas, their shapes, and in plain PyTorch what they do.

These forms are the oracle of the native kernels and run in their absence. No attention map between all patches of
all heads is ever held. Draws are functions of (seed, use, clip index, column), see ``philox``; equal weights give
equal indices on every device, so sums over weights have a fixed order and nothing else than + * / is done to them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from avcl.plugins.stella.ops.philox import Use, exponential, words

# Stand-ins for weight zero, without a branch: each is so far behind the next larger kind that luck cannot help.
HARDLY_EVER = 2.0**-300  # patches without importance
NEVER = 2.0**-900  # pruned patches

BLOCK = 8  # clips whose keys are gathered at once


class Op(NamedTuple):
    """One op: its schema, what it does in PyTorch, an empty result of the right shape, whether kernels exist.

    ``flops``: the floating-point operations of its matrix products, of the shapes of its arguments; None without any.
    """

    schema: str
    kernel: Callable[..., Tensor]
    fake: Callable[..., Tensor]
    native: bool
    flops: Callable[..., int] | None


OPS: dict[str, Op] = {}
"""All ops by name. Those that are native are also in ``csrc/ops.h``."""


def op(
    fake: Callable[..., Tensor], *, native: bool = False, flops: Callable[..., int] | None = None
) -> Callable[[Callable[..., Tensor]], Callable]:
    """Make a function an op: its signature is the schema; numbers are symbolic, so no seed is compiled anew."""

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def kernel(first: Tensor, *args: Any) -> Tensor:
            with exactly(first):
                return function(first, *args)

        name = function.__name__
        OPS[name] = Op(name + torch.library.infer_schema(function, mutates_args=()), kernel, fake, native, flops)
        return kernel

    return register


@contextmanager
def exactly(tensor: Tensor) -> Iterator[None]:
    """No gradient, and no autocast: in half precision many patches would score the same."""
    with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
        yield


def wide(*tensors: Tensor) -> torch.dtype:
    """What scores are computed in: float32, or float64 where one of the tensors is."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def _scores(query: Tensor, key: Tensor, *_: object) -> Tensor:
    return query.new_empty((key.shape[0], key.shape[2]), dtype=wide(query, key))


def _correlations(key: Tensor, past: Tensor, now: Tensor, *_: object) -> Tensor:
    return key.new_empty((key.shape[0], key.shape[2]), dtype=wide(key, past, now))


def _flags(correlation: Tensor, *_: object) -> Tensor:
    return correlation.new_empty(correlation.shape, dtype=torch.bool)


def _indices(importance: Tensor, pruned: Tensor, keep: int, *_: object) -> Tensor:
    return importance.new_empty((importance.shape[0], keep), dtype=torch.int64)


def _products(query: torch.Size, key: torch.Size, *_: object, **__: object) -> int:
    return 2 * math.prod(query) * key[2]


@op(_scores, native=True, flops=_products)
def importance(query: Tensor, key: Tensor, scale: float, temperature: float) -> Tensor:
    """Mean over heads and queries of the row softmax, (B, L), one head at a time: its map fits into the cache."""
    dtype = wide(query, key)
    out = query.new_zeros((key.shape[0], key.shape[2]), dtype=dtype)
    for clip, total in enumerate(out):
        for q, k in zip(query[clip], key[clip], strict=True):
            total += (q.to(dtype) @ k.to(dtype).mT).mul_(scale / temperature).softmax(-1).mean(0)
    return out / query.shape[1]


@op(_correlations)
def correlation(key: Tensor, past: Tensor, now: Tensor, top: Tensor, scale: float, temperature: float) -> Tensor:
    """Mean over heads of the logistic function of how much better the past query fits, (B, L), at ``top``."""
    dtype = wide(key, past, now)
    drift = (past.to(dtype) - now.to(dtype)) * (scale / temperature)
    clips, heads, patches, width = key.shape
    found = torch.zeros(clips, patches, dtype=dtype, device=key.device)
    for start in range(0, clips, BLOCK):
        part = slice(start, start + BLOCK)
        rows = flat_rows(key[part]).index_select(0, flat_positions(top[part], patches).flatten())
        fit = rows.to(dtype).view(-1, top.shape[1], heads, width) * drift[part, None]
        found[part].scatter_(1, top[part], fit.sum(3).sigmoid_().mean(2))
    return found


@op(_flags)
def prune(correlation: Tensor, seed: int, use: int, index: Tensor) -> Tensor:
    """True with probability ``correlation (B, L)``."""
    return words(seed, use, index, correlation.shape[1]) < correlation.double() * 2.0**32


@op(_indices, native=True)
def sample(importance: Tensor, pruned: Tensor, keep: int, seed: int, use: int, index: Tensor) -> Tensor:
    """The first ``keep`` columns (B, keep) of the race."""
    weight = (importance.double() + HARDLY_EVER).masked_fill(pruned, 0)
    return race(weight, seed=seed, use=use, index=index)[:, :keep].contiguous()


@op(_indices, native=True)
def select_chunks(
    importance: Tensor, pruned: Tensor, keep: int, chunk: int, cut: str, seed: int, index: Tensor
) -> Tensor:
    """Algorithm 1, all clips at once: in the order of the race, chunks are taken while there is room."""
    batch, patches = importance.shape
    mean = _fold(importance.double().unflatten(1, (-1, chunk))) / chunk
    order = race(mean, seed=seed, use=Use.AUDIO, index=index)
    rank = order.argsort(1)
    left = ~pruned.unflatten(1, (-1, chunk))
    in_chunk = left.sum(2)
    by_rank = in_chunk.gather(1, order)
    room = (keep - (by_rank.cumsum(1) - by_rank)).gather(1, rank)  # when it is this chunk's turn
    place = left.cumsum(2)  # 1, 2, ... from the front
    if cut == "neighbours":
        head = _drop_head(rank, words(seed, Use.CUT, index, rank.shape[1]) < 2**31)
        place = torch.where(head[..., None], in_chunk[..., None] + 1 - place, place)
    chosen = left & (place <= room[..., None])
    return (~chosen).view(batch, patches).argsort(dim=1, stable=True)[:, :keep].contiguous()


def race(weight: Tensor, *, seed: int, use: int, index: Tensor) -> Tensor:
    """An order (B, L) of the columns: drawn one by one, without replacement, by ``weight (B, L)``.

    The exponential race: each column arrives after Exp(1) / weight, the earliest first. Weights of zero come
    last, in random order. The law is that of torch.multinomial.
    """
    arrival = exponential(words(seed, use, index, weight.shape[1])) / weight.double().clamp(min=NEVER)
    return arrival.argsort(dim=1, stable=True)


def flat_rows(heads: Tensor) -> Tensor:
    """``heads (B, H, L, d)`` as (B * L, H * d): most often, heads of a patch lie side by side, and this is no copy."""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)


def flat_positions(top: Tensor, patches: int) -> Tensor:
    """Where the patches ``top (B, K)`` of each clip are in ``flat_rows``."""
    return top + patches * torch.arange(len(top), device=top.device)[:, None]


def _fold(values: Tensor) -> Tensor:
    """The sum over the last axis, upper half onto lower half: one order on every device."""
    while (count := values.shape[-1]) > 1:
        half = 1 << (count - 1).bit_length() - 1
        values = values[..., :half] + pad(values[..., half:], (0, 2 * half - count))
    return values.squeeze(-1)


def _drop_head(rank: Tensor, coin: Tensor) -> Tensor:
    """Which chunks lose patches at their head, were they cut (B, C): only the next chunk ranks before them."""
    last = rank.shape[1]  # beyond either end nothing is ever taken
    before = pad(rank, (1, 0), value=last)[:, :-1] < rank
    after = pad(rank, (0, 1), value=last)[:, 1:] < rank
    return torch.where(before == after, coin, after)
