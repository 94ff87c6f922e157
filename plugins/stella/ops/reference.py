"""The ops of the namespace ``avcl`` in plain PyTorch: the oracle of the native ones, and what runs in their absence.

No attention map between all patches of all heads is ever held. Draws are functions of
(seed, use, clip index, column), see ``philox``; equal weights give equal indices on every device, so sums over
weights have a fixed order and nothing else than + * / is done to them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any

import torch
from torch import Tensor

from avcl.plugins.stella.ops.philox import Use, exponential, words

# Stand-ins for weight zero, without a branch: each is so far behind the next larger kind that luck cannot help.
HARDLY_EVER = 2.0**-300  # patches without importance
NEVER = 2.0**-900  # pruned patches

KERNELS: dict[str, Callable[..., Tensor]] = {}
"""The ops by name."""


@contextmanager
def exactly(tensor: Tensor) -> Iterator[None]:
    """No gradient, and no autocast: in half precision many patches would score the same."""
    with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
        yield


def _kernel(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(op)
    def exact(first: Tensor, *args: Any) -> Tensor:
        with exactly(first):
            return op(first, *args)

    KERNELS[op.__name__] = exact
    return exact


@_kernel
def importance(query: Tensor, key: Tensor, scale: float, temperature: float) -> Tensor:
    """Mean over heads and queries of the row softmax, (B, L), head by head."""
    dtype = wide(query, key)
    attended = [
        (q @ k.mT).mul_(scale / temperature).softmax(-1).mean(1)
        for q, k in zip(query.to(dtype).unbind(1), key.to(dtype).unbind(1), strict=True)
    ]
    return torch.stack(attended).mean(0)


@_kernel
def correlation(key: Tensor, past: Tensor, now: Tensor, top: Tensor, scale: float, temperature: float) -> Tensor:
    """Mean over heads of the logistic function of how much better the past query fits, (B, L), at ``top``."""
    dtype = wide(key, past, now)
    drift = torch.einsum("bhld,bhd->bhl", key.to(dtype), past.to(dtype) - now.to(dtype))
    return only(top, (drift * (scale / temperature)).sigmoid().mean(1))


@_kernel
def prune(correlation: Tensor, seed: int, use: int, index: Tensor) -> Tensor:
    """True with probability ``correlation (B, L)``."""
    return words(seed, use, index, correlation.shape[1]) < correlation.double() * 2.0**32


@_kernel
def sample(importance: Tensor, pruned: Tensor, keep: int, seed: int, use: int, index: Tensor) -> Tensor:
    """The first ``keep`` columns (B, keep) of the race."""
    weight = (importance.double() + HARDLY_EVER).masked_fill(pruned, 0)
    return race(weight, seed=seed, use=use, index=index)[:, :keep].contiguous()


@_kernel
def select_chunks(
    importance: Tensor, pruned: Tensor, keep: int, chunk: int, cut: str, seed: int, index: Tensor
) -> Tensor:
    """Algorithm 1, all clips at once: in the order of the race, chunks are taken while there is room."""
    batch, patches = importance.shape
    mean = _fold(importance.double().reshape(batch, -1, chunk)) / chunk
    order = race(mean, seed=seed, use=Use.AUDIO, index=index)
    rank = order.argsort(1)
    left = ~pruned.reshape(batch, -1, chunk)
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


def only(top: Tensor, values: Tensor) -> Tensor:
    """``values (B, L)`` at ``top (B, K)``, 0 elsewhere."""
    return torch.zeros_like(values).scatter(1, top, values.gather(1, top))


def wide(*tensors: Tensor) -> torch.dtype:
    """What scores are computed in: float32, or float64 where one of the tensors is."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def _fold(values: Tensor) -> Tensor:
    """The sum over the last axis, upper half onto lower half: one order on every device."""
    while (count := values.shape[-1]) > 1:
        half = 1 << (count - 1).bit_length() - 1
        upper = torch.nn.functional.pad(values[..., half:], (0, 2 * half - count))
        values = values[..., :half] + upper
    return values.squeeze(-1)


def _drop_head(rank: Tensor, coin: Tensor) -> Tensor:
    """Which chunks lose patches at their head, were they cut (B, C): only the next chunk ranks before them."""
    last = rank.shape[1]  # beyond either end nothing is ever taken
    before = torch.nn.functional.pad(rank, (1, 0), value=last)[:, :-1] < rank
    after = torch.nn.functional.pad(rank, (0, 1), value=last)[:, 1:] < rank
    return torch.where(before == after, coin, after)
