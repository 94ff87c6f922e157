"""Which patches matter, which belong to the past, which to train on: STELLA's scores and draws as pure functions.

No attention map between all patches of all heads is ever held. Draws are functions of
(seed, use, clip index, column), see ``philox``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor

from avcl.plugins.stella.philox import Use, words

Cut = Literal["neighbours", "tail"]
Along = Literal["time", "frequency", "unconstrained"]

# Stand-ins for weight zero, without a branch: each is so far behind the next larger kind that luck cannot help.
_HARDLY_EVER = 2.0**-300  # patches without importance
_NEVER = 2.0**-900  # pruned patches


def importance(query: Tensor, key: Tensor, scale: float, temperature: float = 1.0) -> Tensor:
    """How much the other modality attends to each patch, (B, L); every row sums to 1.

    ``query (B, H, M, d)`` of the other modality, ``key (B, H, L, d)`` of this one::

        I[j] = mean over heads h and queries i of softmax_j(q[h, i] · k[h, j] · scale / temperature)
    """
    _check_heads(query, key)
    _check_temperature(temperature)
    with _exactly(query):
        attended = [
            (q @ k.mT).mul_(scale / temperature).softmax(-1).mean(1)
            for q, k in zip(_wide(query).unbind(1), _wide(key).unbind(1), strict=True)
        ]
        return torch.stack(attended).mean(0)


def leading(importance: Tensor, keep: int) -> Tensor:
    """The ``keep`` most important patches (B, keep), the first one first; the earlier of two equal ones."""
    _check_keep(keep, importance)
    return importance.argsort(dim=1, descending=True, stable=True)[:, :keep]


def pooled_query(query: Tensor, importance: Tensor, top: Tensor) -> Tensor:
    """One query for a whole clip (B, H, d): the mean of ``query (B, H, L, d)`` over the patches ``top (B, K)``.

    Weighted by ``importance (B, L)``: q̂ = Σ_top I q / Σ_top I.
    """
    with _exactly(query):
        weight = _only(top, _wide(importance))
        return torch.einsum("bhld,bl->bhd", _wide(query), weight / weight.sum(1, keepdim=True))


def correlation(key: Tensor, past: Tensor, now: Tensor, top: Tensor, scale: float, temperature: float = 1.0) -> Tensor:
    """How much more a patch answers to a past clip than to its own, (B, L) in [0, 1]; 0 outside ``top (B, K)``.

    ``key (B, H, L, d)`` of this modality, pooled queries ``past`` and ``now (B, H, d)`` of the other::

        C[j] = mean over heads of σ((k[j] · q̂_past - k[j] · q̂_now) · scale / temperature)

    This is the softmax over the pair of importance-weighted attention scores (past, now); the weighted mean
    over queries goes inside the product, as both are linear, so that no map is needed.
    """
    if not past.shape == now.shape == (len(key), key.shape[1], key.shape[3]):
        raise ValueError(
            f"correlation: pooled queries past {tuple(past.shape)} and now {tuple(now.shape)} "
            f"must be (B, H, d) of key {tuple(key.shape)}"
        )
    _check_temperature(temperature)
    with _exactly(key):
        drift = torch.einsum("bhld,bhd->bhl", _wide(key), _wide(past) - _wide(now))
        return _only(top, (drift * (scale / temperature)).sigmoid().mean(1))


def prune(correlation: Tensor, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """True with probability ``correlation (B, L)``, for each patch of the clips ``index (B,)`` on its own."""
    _check_rows("correlation", correlation, index)
    fine = (correlation >= 0) & (correlation <= 1)
    _check_values("correlation", correlation, fine, "probabilities must lie in [0, 1]")
    return words(seed, use, index, correlation.shape[1]) < correlation.double() * 2.0**32


def race(weight: Tensor, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """An order (B, L) of the columns: drawn one by one, without replacement, by ``weight (B, L)``.

    The exponential race: each column arrives after Exp(1) / weight, the earliest first. Weights of zero come
    last, in random order. The law is that of torch.multinomial.
    """
    _check_rows("weight", weight, index)
    _check_values("weight", weight, (weight >= 0) & weight.isfinite(), "weights must be finite and not negative")
    uniform = (words(seed, use, index, weight.shape[1]).double() + 0.5) * 2.0**-32
    arrival = -uniform.log() / weight.double().clamp(min=_NEVER)
    return arrival.argsort(dim=1, stable=True)


def sample(importance: Tensor, pruned: Tensor, keep: int, *, seed: int, use: Use, index: Tensor) -> Tensor:
    """``keep`` patches of each clip (B, keep), drawn by importance; pruned ones only when no others are left."""
    _check_pruned(pruned, importance)
    _check_keep(keep, importance)
    weight = (importance.double() + _HARDLY_EVER).masked_fill(pruned, 0)
    return race(weight, seed=seed, use=use, index=index)[:, :keep]


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
    _check_pruned(pruned, importance)
    _check_keep(keep, importance)
    batch, patches = importance.shape
    if chunk < 1 or patches % chunk:
        raise ValueError(f"chunk: {chunk} does not divide {patches} patches; choose a divisor")
    if cut not in get_args(Cut):
        raise ValueError(f"cut: {cut!r} is not known; allowed: {', '.join(get_args(Cut))}")
    order = race(importance.reshape(batch, -1, chunk).mean(2), seed=seed, use=Use.AUDIO, index=index)
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
    return (~chosen).view(batch, patches).argsort(dim=1, stable=True)[:, :keep]


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
    times = importance.shape[1] // freqs
    if along == "time":
        return select_chunks(importance, pruned, keep, chunk * freqs, cut, seed=seed, index=index)
    turned = torch.arange(times * freqs, device=importance.device).view(times, freqs).T.flatten()
    chosen = select_chunks(importance[:, turned], pruned[:, turned], keep, chunk * times, cut, seed=seed, index=index)
    return turned[chosen]


def _drop_head(rank: Tensor, coin: Tensor) -> Tensor:
    """Which chunks lose patches at their head, were they cut (B, C): only the next chunk ranks before them."""
    last = rank.shape[1]  # beyond either end nothing is ever taken
    before = torch.nn.functional.pad(rank, (1, 0), value=last)[:, :-1] < rank
    after = torch.nn.functional.pad(rank, (0, 1), value=last)[:, 1:] < rank
    return torch.where(before == after, coin, after)


def _only(top: Tensor, values: Tensor) -> Tensor:
    """``values (B, L)`` at ``top (B, K)``, 0 elsewhere."""
    return torch.zeros_like(values).scatter(1, top, values.gather(1, top))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def _exactly(tensor: Tensor) -> Iterator[None]:
    """No gradient, and no autocast: in half precision many patches would score the same."""
    with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
        yield


def _check_values(name: str, values: Tensor, fine: Tensor, rule: str) -> None:
    if not bool(fine.all()):
        raise ValueError(f"{name}: {values[~fine][0].item()} is not allowed; {rule}")


def _check_heads(query: Tensor, key: Tensor) -> None:
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"importance: query {tuple(query.shape)} and key {tuple(key.shape)} must be (B, H, M, d) and (B, H, L, d)"
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: {temperature} is not allowed; it must be greater than 0")


def _check_rows(name: str, values: Tensor, index: Tensor) -> None:
    if not values.is_floating_point():
        raise TypeError(f"{name}: a floating-point tensor is needed, not {values.dtype}")
    if values.ndim != 2 or index.shape != (len(values),):
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} with index {tuple(index.shape)}; (B, L) and (B,) are needed"
        )


def _check_pruned(pruned: Tensor, importance: Tensor) -> None:
    if pruned.dtype != torch.bool:
        raise TypeError(f"pruned: a bool tensor is needed, not {pruned.dtype}")
    if pruned.shape != importance.shape:
        raise ValueError(f"pruned: shape {tuple(pruned.shape)} differs from importance {tuple(importance.shape)}")


def _check_keep(keep: int, importance: Tensor) -> None:
    if not 1 <= keep <= importance.shape[1]:
        raise ValueError(f"keep: {keep} of {importance.shape[1]} patches is not possible; allowed: 1 to all")
