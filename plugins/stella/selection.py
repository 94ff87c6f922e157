"""Which patches matter, which belong to the past, which to train on: STELLA's scores and draws as pure functions.

What is heavy is an op of the namespace ``avcl`` (``native``); here are its arguments, checked. Draws are functions
of (seed, use, clip index, column), see ``philox``. Compiled functions skip the checks that look at values.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from avcl.plugins.stella import native
from avcl.plugins.stella.philox import Use
from avcl.plugins.stella.reference import exactly, only, wide

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
    _check_places(query=query, key=key)
    _check_temperature(temperature)
    return torch.ops.avcl.importance(query, key, scale, temperature)


def leading(importance: Tensor, keep: int) -> Tensor:
    """The ``keep`` most important patches (B, keep), the first one first; the earlier of two equal ones."""
    return importance.argsort(dim=1, descending=True, stable=True)[:, :keep]


def pooled_query(query: Tensor, importance: Tensor, top: Tensor) -> Tensor:
    """One query for a whole clip (B, H, d): the mean of ``query (B, H, L, d)`` over the patches ``top (B, K)``.

    Weighted by ``importance (B, L)``: q̂ = Σ_top I q / Σ_top I.
    """
    with exactly(query):
        weight = only(top, importance.to(wide(importance)))
        return torch.einsum("bhld,bl->bhd", query.to(wide(query)), weight / weight.sum(1, keepdim=True))


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
    _check_integers(top=top)
    if top.ndim != 2 or len(top) != len(key):
        raise ValueError(f"top: shape {tuple(top.shape)} is not (B, K) for key {tuple(key.shape)}")
    _check_places(key=key, past=past, now=now, top=top)
    _check_values("top", top, 0, key.shape[2] - 1, f"positions must lie in [0, {key.shape[2]})")
    _check_temperature(temperature)
    return torch.ops.avcl.correlation(key, past, now, top.long(), scale, temperature)


def prune(correlation: Tensor, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """True with probability ``correlation (B, L)``, for each patch of the clips ``index (B,)`` on its own."""
    _check_rows("correlation", correlation, seed, index)
    _check_values("correlation", correlation, 0, 1, "probabilities must lie in [0, 1]")
    return torch.ops.avcl.prune(correlation, seed, int(use), index.long())


def sample(importance: Tensor, pruned: Tensor, keep: int, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """``keep`` patches of each clip (B, keep), drawn one by one, without replacement, by importance.

    Pruned ones only when no others are left. The law is that of torch.multinomial.
    """
    _check_weights(importance, pruned, keep, seed, index)
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
    if along not in get_args(Along):
        raise ValueError(f"along: {along!r} is not known; allowed: {', '.join(get_args(Along))}")
    if along == "unconstrained":
        return sample(importance, pruned, keep, seed=seed, use=Use.AUDIO, index=index)
    if freqs < 1 or importance.shape[-1] % freqs:
        raise ValueError(f"freqs: {freqs} does not divide {importance.shape[-1]} patches; choose a divisor")
    if along == "time":
        return select_chunks(importance, pruned, keep, chunk * freqs, cut, seed=seed, index=index)
    times = importance.shape[1] // freqs
    turned = torch.arange(times * freqs, device=importance.device).view(times, freqs).T.flatten()
    chosen = select_chunks(importance[:, turned], pruned[:, turned], keep, chunk * times, cut, seed=seed, index=index)
    return turned[chosen]


def _check_floats(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: a floating-point tensor is needed, not {tensor.dtype}")


def _check_integers(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f"{name}: a tensor of integers is needed, not {tensor.dtype}")


def _check_places(**tensors: Tensor) -> None:
    """That none is empty and all are on one device."""
    first, *_ = tensors
    for name, tensor in tensors.items():
        if 0 in tensor.shape:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} is empty; at least one along each axis is needed")
        if tensor.device != tensors[first].device:
            raise ValueError(f"{name}: is on {tensor.device}, {first} on {tensors[first].device}; one device is needed")


def _check_values(name: str, values: Tensor, least: float, most: float, rule: str) -> None:
    if torch.compiler.is_compiling():
        return
    low, high = values.detach().aminmax()  # NaN is either's result
    if not (low >= least and high <= most):
        fine = (values >= least) & (values <= most)
        raise ValueError(f"{name}: {values[~fine][0].item()} is not allowed; {rule}")


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not allowed; it must be greater than 0")


def _check_rows(name: str, values: Tensor, seed: int, index: Tensor) -> None:
    _check_floats(**{name: values})
    _check_integers(index=index)
    if values.ndim != 2 or index.shape != (len(values),):
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} with index {tuple(index.shape)}; (B, L) and (B,) are needed"
        )
    _check_places(**{name: values, "index": index})
    if not torch.compiler.is_compiling() and not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: {seed} is not allowed; it must fit into 64 bits with a sign")


def _check_weights(importance: Tensor, pruned: Tensor, keep: int, seed: int, index: Tensor) -> None:
    _check_rows("importance", importance, seed, index)
    if pruned.dtype != torch.bool:
        raise TypeError(f"pruned: a bool tensor is needed, not {pruned.dtype}")
    if pruned.shape != importance.shape:
        raise ValueError(f"pruned: shape {tuple(pruned.shape)} differs from importance {tuple(importance.shape)}")
    _check_places(importance=importance, pruned=pruned)
    if not 1 <= keep <= importance.shape[1]:
        raise ValueError(f"keep: {keep} of {importance.shape[1]} patches is not possible; allowed: 1 to all")
    most = torch.finfo(importance.dtype).max
    _check_values("importance", importance, 0, most, "weights must be finite and not negative")
