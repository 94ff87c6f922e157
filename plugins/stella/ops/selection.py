"""STELLA's patch selection as pure functions: importance, correlation with the past, pruning, sampling.

What is heavy is an op of the namespace ``avcl`` (``native``); here its arguments are checked (``checks``). Draws
are functions of (seed, use, clip index, column), see ``philox``. Tensors may be views whose rows or heads lie apart,
as long as the numbers along the last axis are neighbours.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from avcl.plugins.stella.ops import checks, native
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import exactly, flat_positions, flat_rows, wide

__all__ = [
    "Along",
    "Cut",
    "correlation",
    "importance",
    "leading",
    "native",
    "pooled_query",
    "prune",
    "sample",
    "select_audio",
    "select_chunks",
]

Cut = Literal["neighbours", "tail"]
Along = Literal["time", "frequency", "unconstrained"]


def importance(query: Tensor, key: Tensor, scale: float, temperature: float = 1.0) -> Tensor:
    """Importance: how much the other modality attends to each patch, (B, L); every row sums to 1.

    ``query (B, H, M, d)`` of the other modality, ``key (B, H, L, d)`` of this one::

        I[j] = mean over heads h and queries i of softmax_j(q[h, i] · k[h, j] · scale / temperature)
    """
    checks.check_floats(query=query, key=key)
    fits = query.ndim == key.ndim == 4 and query.shape[:2] == key.shape[:2] and query.shape[3] == key.shape[3]
    checks.check_shape(fits, "(B, H, M, d) and (B, H, L, d)", query=query, key=key)
    if query.dtype != key.dtype:
        raise TypeError(f"key: invalid type {key.dtype}: must be that of query, {query.dtype}")
    checks.check_layout(query=query, key=key)
    checks.check_temperature(scale, temperature)
    return torch.ops.avcl.importance(query, key, scale, temperature)


def leading(importance: Tensor, keep: int) -> Tensor:
    """The ``keep`` most important patches (B, keep), the first one first; the earlier of two equal ones."""
    checks.check_floats(importance=importance)
    checks.check_shape(importance.ndim == 2, "(B, L)", importance=importance)
    checks.check_layout(importance=importance)
    checks.check_keep(keep, importance)
    checks.check_values("importance", importance, -math.inf, math.inf, "a number")
    return importance.argsort(dim=1, descending=True, stable=True)[:, :keep]


def pooled_query(query: Tensor, importance: Tensor, top: Tensor) -> Tensor:
    """One query for a whole clip (B, H, d): the mean of ``query (B, H, L, d)`` over the patches ``top (B, K)``.

    Weighted by ``importance (B, L)``: q̂ = Σ_top I q / Σ_top I. No patch may be in ``top`` twice.
    """
    checks.check_floats(query=query, importance=importance)
    checks.check_integers(top=top)
    fits = query.ndim == 4 and top.ndim == 2 and importance.shape == (len(top), query.shape[2])
    fits = fits and len(top) == len(query)
    checks.check_shape(fits, "(B, H, L, d), (B, L) and (B, K)", query=query, importance=importance, top=top)
    checks.check_layout(query=query, importance=importance, top=top)
    checks.check_top(top, query.shape[2])
    with exactly(query):
        weight = importance.to(wide(importance)).gather(1, top.long())
        share = weight / weight.sum(1, keepdim=True)
        rows, bags = flat_rows(query.to(wide(query))), flat_positions(top, query.shape[2])
        pooled = embedding_bag(bags, rows, mode="sum", per_sample_weights=share.to(rows.dtype))
        return pooled.view(len(query), query.shape[1], query.shape[3])


def correlation(key: Tensor, past: Tensor, now: Tensor, top: Tensor, scale: float, temperature: float = 1.0) -> Tensor:
    """Correlation with the past: how much more a patch answers to a past clip than to its own, (B, L) in [0, 1].

    ``key (B, H, L, d)`` of this modality, pooled queries ``past`` and ``now (B, H, d)`` of the other;
    0 outside ``top (B, K)``::

        C[j] = mean over heads of σ((k[j] · q̂_past - k[j] · q̂_now) · scale / temperature)

    This is the softmax over the pair of importance-weighted attention scores (past, now); the weighted mean
    over queries goes inside the product, as both are linear, so that no map is needed.
    """
    checks.check_floats(key=key, past=past, now=now)
    checks.check_integers(top=top)
    fits = key.ndim == 4 and past.shape == now.shape == (len(key), key.shape[1], key.shape[3])
    fits = fits and top.ndim == 2 and len(top) == len(key)
    rule = "(B, H, L, d), (B, H, d), (B, H, d) and (B, K)"
    checks.check_shape(fits, rule, key=key, past=past, now=now, top=top)
    checks.check_layout(key=key, past=past, now=now, top=top)
    checks.check_top(top, key.shape[2])
    checks.check_temperature(scale, temperature)
    return torch.ops.avcl.correlation(key, past, now, top.long(), scale, temperature)


def prune(correlation: Tensor, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """Pruning: True with probability ``correlation (B, L)``, for each patch of the clips ``index (B,)`` on its own."""
    checks.check_rows("correlation", correlation, seed, index)
    checks.check_use(use)
    checks.check_values("correlation", correlation, 0, 1, "a probability in [0, 1]")
    return torch.ops.avcl.prune(correlation, seed, int(use), index.long())


def sample(importance: Tensor, pruned: Tensor, keep: int, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """Weighted sampling without replacement: ``keep`` patches of each clip (B, keep), by importance.

    Pruned ones only when no others are left. The law is that of torch.multinomial.
    """
    checks.check_weights(importance, pruned, keep, seed, index)
    checks.check_use(use)
    return torch.ops.avcl.sample(importance, pruned, keep, seed, int(use), index.long())


def select_chunks(
    importance: Tensor,
    pruned: Tensor,
    keep: int,
    chunk: int,
    cut: Cut = "neighbours",
    *,
    seed: int,
    index: Tensor,
) -> Tensor:
    """Algorithm 1: ``keep`` patches of each clip (B, keep) from whole chunks of ``chunk`` consecutive patches.

    Chunks are drawn one by one by their mean importance; of each, all patches that are not pruned are taken.
    The chunk that would give too many is cut: ``tail`` drops its last patches, as printed; ``neighbours``
    drops those away from the neighbour that was taken before it, and tosses a coin if both or neither were.
    Clips with too few patches left get pruned ones, in the order of their position, at the end.
    """
    checks.check_weights(importance, pruned, keep, seed, index)
    checks.check_divisor("chunk", chunk, importance.shape[1])
    checks.check_choice("cut", cut, get_args(Cut))
    return torch.ops.avcl.select_chunks(importance, pruned, keep, chunk, cut, seed, index.long())


def select_audio(
    importance: Tensor,
    pruned: Tensor,
    keep: int,
    *,
    freqs: int,
    chunk: int,
    along: Along = "time",
    cut: Cut = "neighbours",
    seed: int,
    index: Tensor,
) -> Tensor:
    """``keep`` of the audio patches (B, times * freqs): ``chunk`` neighbours along one axis of the spectrogram
    together with all of the other axis, or each patch on its own (``unconstrained``).
    """
    checks.check_choice("along", along, get_args(Along))
    if along == "unconstrained":
        return sample(importance, pruned, keep, seed=seed, use=Use.AUDIO, index=index)
    checks.check_weights(importance, pruned, keep, seed, index)
    checks.check_divisor("freqs", freqs, importance.shape[1])
    checks.check_whole(chunk=chunk)
    if along == "time":
        return select_chunks(importance, pruned, keep, chunk * freqs, cut, seed=seed, index=index)
    times = importance.shape[1] // freqs
    turned = torch.arange(times * freqs, device=importance.device).view(times, freqs).T.flatten()
    importance, pruned = importance.index_select(1, turned), pruned.index_select(1, turned)
    chosen = select_chunks(importance, pruned, keep, chunk * times, cut, seed=seed, index=index)
    return turned[chosen]
