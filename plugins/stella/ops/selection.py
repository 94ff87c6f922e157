"""Which patches matter, which belong to the past, which to train on: STELLA's scores and draws as pure functions.

What is heavy is an op of the namespace ``avcl`` (``native``); here are its arguments, checked. Draws are functions
of (seed, use, clip index, column), see ``philox``. Compiled functions skip the checks that look at values.

Tensors may be views whose rows or heads lie apart, as long as the numbers along the last axis are neighbours.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from avcl.plugins.stella.ops import native
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import exactly, wide

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

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Cut = Literal["neighbours", "tail"]
Along = Literal["time", "frequency", "unconstrained"]


def importance(query: Tensor, key: Tensor, scale: float, temperature: float = 1.0) -> Tensor:
    """How much the other modality attends to each patch, (B, L); every row sums to 1.

    ``query (B, H, M, d)`` of the other modality, ``key (B, H, L, d)`` of this one::

        I[j] = mean over heads h and queries i of softmax_j(q[h, i] · k[h, j] · scale / temperature)
    """
    _check_floats(query=query, key=key)
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"importance: query {tuple(query.shape)} and key {tuple(key.shape)} must be (B, H, M, d) and (B, H, L, d)"
        )
    if query.dtype != key.dtype:
        raise TypeError(f"key: {key.dtype} differs from the query's {query.dtype}; the same is needed")
    _check_layout(query=query, key=key)
    _check_temperature(scale, temperature)
    return torch.ops.avcl.importance(query, key, scale, temperature)


def leading(importance: Tensor, keep: int) -> Tensor:
    """The ``keep`` most important patches (B, keep), the first one first; the earlier of two equal ones."""
    _check_floats(importance=importance)
    if importance.ndim != 2:
        raise ValueError(f"importance: shape {tuple(importance.shape)} is not (B, L)")
    _check_layout(importance=importance)
    _check_keep(keep, importance)
    _check_values("importance", importance, -math.inf, math.inf, "scores must be numbers")
    return importance.argsort(dim=1, descending=True, stable=True)[:, :keep]


def pooled_query(query: Tensor, importance: Tensor, top: Tensor) -> Tensor:
    """One query for a whole clip (B, H, d): the mean of ``query (B, H, L, d)`` over the patches ``top (B, K)``.

    Weighted by ``importance (B, L)``: q̂ = Σ_top I q / Σ_top I. No patch may be in ``top`` twice.
    """
    _check_floats(query=query, importance=importance)
    if query.ndim != 4 or importance.shape != (len(query), query.shape[2]):
        raise ValueError(
            f"pooled_query: query {tuple(query.shape)} and importance {tuple(importance.shape)} "
            "must be (B, H, L, d) and (B, L)"
        )
    _check_top(top, query=query)
    _check_layout(query=query, importance=importance, top=top)
    _check_values("top", top, 0, query.shape[2] - 1, f"positions must lie in [0, {query.shape[2]})")
    clips, heads, patches, width = query.shape
    with exactly(query):
        weight = importance.to(wide(importance)).gather(1, top.long())
        share = weight / weight.sum(1, keepdim=True)
        # the weights are those of all heads, which most often lie side by side: then rows are no copy
        rows = query.to(wide(query)).transpose(1, 2).reshape(clips * patches, heads * width)
        bags = top + patches * torch.arange(clips, device=top.device)[:, None]
        pooled = embedding_bag(bags, rows, mode="sum", per_sample_weights=share.to(rows.dtype))
        return pooled.view(clips, heads, width)


def correlation(key: Tensor, past: Tensor, now: Tensor, top: Tensor, scale: float, temperature: float = 1.0) -> Tensor:
    """How much more a patch answers to a past clip than to its own, (B, L) in [0, 1]; 0 outside ``top (B, K)``.

    ``key (B, H, L, d)`` of this modality, pooled queries ``past`` and ``now (B, H, d)`` of the other::

        C[j] = mean over heads of σ((k[j] · q̂_past - k[j] · q̂_now) · scale / temperature)

    This is the softmax over the pair of importance-weighted attention scores (past, now); the weighted mean
    over queries goes inside the product, as both are linear, so that no map is needed.
    """
    _check_floats(key=key, past=past, now=now)
    if key.ndim != 4 or not past.shape == now.shape == (len(key), key.shape[1], key.shape[3]):
        raise ValueError(
            f"correlation: pooled queries past {tuple(past.shape)} and now {tuple(now.shape)} "
            f"must be (B, H, d) of key {tuple(key.shape)}"
        )
    _check_top(top, key=key)
    _check_layout(key=key, past=past, now=now, top=top)
    _check_values("top", top, 0, key.shape[2] - 1, f"positions must lie in [0, {key.shape[2]})")
    _check_temperature(scale, temperature)
    return torch.ops.avcl.correlation(key, past, now, top.long(), scale, temperature)


def prune(correlation: Tensor, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """True with probability ``correlation (B, L)``, for each patch of the clips ``index (B,)`` on its own."""
    _check_rows("correlation", correlation, seed, index)
    _check_use(use)
    _check_values("correlation", correlation, 0, 1, "probabilities must lie in [0, 1]")
    return torch.ops.avcl.prune(correlation, seed, int(use), index.long())


def sample(importance: Tensor, pruned: Tensor, keep: int, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """``keep`` patches of each clip (B, keep), drawn one by one, without replacement, by importance.

    Pruned ones only when no others are left. The law is that of torch.multinomial.
    """
    _check_weights(importance, pruned, keep, seed, index)
    _check_use(use)
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
    _check_weights(importance, pruned, keep, seed, index)
    _check_whole(chunk=chunk)
    patches = importance.shape[1]
    if chunk < 1 or patches % chunk:
        raise ValueError(f"chunk: {chunk} does not divide {patches} patches; choose a divisor")
    if cut not in get_args(Cut):
        raise ValueError(f"cut: {cut!r} is not known; allowed: {', '.join(get_args(Cut))}")
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
    _check_rows("importance", importance, seed, index)
    if along not in get_args(Along):
        raise ValueError(f"along: {along!r} is not known; allowed: {', '.join(get_args(Along))}")
    if along == "unconstrained":
        return sample(importance, pruned, keep, seed=seed, use=Use.AUDIO, index=index)
    _check_whole(freqs=freqs, chunk=chunk)
    if freqs < 1 or importance.shape[-1] % freqs:
        raise ValueError(f"freqs: {freqs} does not divide {importance.shape[-1]} patches; choose a divisor")
    if along == "time":
        return select_chunks(importance, pruned, keep, chunk * freqs, cut, seed=seed, index=index)
    _check_weights(importance, pruned, keep, seed, index)
    times = importance.shape[1] // freqs
    turned = torch.arange(times * freqs, device=importance.device).view(times, freqs).T.flatten()
    importance, pruned = importance.index_select(1, turned), pruned.index_select(1, turned)
    chosen = select_chunks(importance, pruned, keep, chunk * times, cut, seed=seed, index=index)
    return turned[chosen]


def _check_floats(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        _check_is_tensor(name, tensor)
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name}: a floating-point tensor of 16, 32 or 64 bits is needed, not {tensor.dtype}")


def _check_integers(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        _check_is_tensor(name, tensor)
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f"{name}: a tensor of integers is needed, not {tensor.dtype}")


def _check_is_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: a tensor is needed, not {type(tensor).__name__}")


def _check_layout(**tensors: Tensor) -> None:
    """That none is empty, all are on one device, and along the last axis numbers are neighbours."""
    first, *_ = tensors
    for name, tensor in tensors.items():
        if 0 in tensor.shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} is empty; at least one along each axis is needed")
        if tensor.device != tensors[first].device:
            raise ValueError(f"{name}: is on {tensor.device}, {first} on {tensors[first].device}; one device is needed")
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(
                f"{name}: strides {tensor.stride()} are not allowed; the last must be 1: call .contiguous() on it"
            )


def _check_values(name: str, values: Tensor, least: float, most: float, rule: str) -> None:
    if torch.compiler.is_compiling() or values.is_meta:
        return
    low, high = values.detach().aminmax()  # NaN is either's result
    if not (low >= least and high <= most):
        fine = (values >= least) & (values <= most)
        raise ValueError(f"{name}: {values[~fine][0].item()} is not allowed; {rule}")


def _check_temperature(scale: float, temperature: float) -> None:
    for name, value in (("scale", scale), ("temperature", temperature)):
        if isinstance(value, bool) or not isinstance(value, int | float | torch.SymFloat):
            raise TypeError(f"{name}: a number is needed, not {type(value).__name__}")
    if torch.compiler.is_compiling():
        return
    if not math.isfinite(scale):
        raise ValueError(f"scale: {scale} is not allowed; it must be finite")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: {temperature} is not allowed; it must be greater than 0, and finite")
    if not abs(scale) <= temperature * torch.finfo(torch.float32).max:
        raise ValueError(f"temperature: {temperature} is too small for the scale {scale}: their ratio is infinite")


def _check_whole(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
            raise TypeError(f"{name}: a whole number is needed, not {type(number).__name__}")


def _check_use(use: Use) -> None:
    if use not in tuple(Use):
        raise ValueError(f"use: {use!r} is not known; allowed: {', '.join(f'Use.{one.name}' for one in Use)}")


def _check_keep(keep: int, importance: Tensor) -> None:
    _check_whole(keep=keep)
    if not 0 <= keep <= importance.shape[1]:
        raise ValueError(f"keep: {keep} of {importance.shape[1]} patches is not possible; allowed: 0 to all")


def _check_top(top: Tensor, **heads: Tensor) -> None:
    """That ``top`` can be positions in the one tensor (B, H, L, d) that is named."""
    _check_integers(top=top)
    ((name, tensor),) = heads.items()
    if top.ndim != 2 or len(top) != len(tensor):
        raise ValueError(f"top: shape {tuple(top.shape)} is not (B, K) for {name} {tuple(tensor.shape)}")


def _check_rows(name: str, values: Tensor, seed: int, index: Tensor) -> None:
    _check_whole(seed=seed)
    _check_floats(**{name: values})
    _check_integers(index=index)
    if values.ndim != 2 or index.shape != (len(values),):
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} with index {tuple(index.shape)}; (B, L) and (B,) are needed"
        )
    _check_layout(**{name: values, "index": index})
    if not torch.compiler.is_compiling() and not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: {seed} is not allowed; it must fit into 64 bits with a sign")


def _check_weights(importance: Tensor, pruned: Tensor, keep: int, seed: int, index: Tensor) -> None:
    _check_rows("importance", importance, seed, index)
    _check_is_tensor("pruned", pruned)
    if pruned.dtype != torch.bool:
        raise TypeError(f"pruned: a bool tensor is needed, not {pruned.dtype}")
    if pruned.shape != importance.shape:
        raise ValueError(f"pruned: shape {tuple(pruned.shape)} differs from importance {tuple(importance.shape)}")
    _check_layout(importance=importance, pruned=pruned)
    _check_keep(keep, importance)
    most = torch.finfo(importance.dtype).max
    _check_values("importance", importance, 0, most, "weights must be finite and not negative")
