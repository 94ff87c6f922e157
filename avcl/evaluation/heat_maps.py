"""Heat maps of where a sound comes from: what a frozen model shows of it, and what anybody sees without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from avcl.clip import Clip, Grid
from avcl.evaluation.features import View, read
from avcl.evaluation.protocol import Frozen

BASELINES = ("centre", "energy")


class Attends(Protocol):
    """A strategy's module that says how much each modality attends to each token of the other, as STELLA's does."""

    def importance(self, audio: Tensor, video: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """``(audio (B, A), video (B, V))`` of fused tokens."""


def matching_module(model: Frozen) -> Attends | None:
    """The module named ``matching`` that strategies brought, if it says what it attends to."""
    module: nn.Module | None = model.modules.get("matching")
    return module if callable(getattr(module, "importance", None)) else None  # type: ignore[return-value]


@dataclass(frozen=True)
class Means:
    """The mean token of each modality's own blocks, (D,), over many clips: what says nothing about any of them."""

    audio: Tensor
    video: Tensor

    @classmethod
    @torch.no_grad()
    def over(cls, model: Frozen, clips: object, numbers: list[int]) -> Means:
        """Over the clips ``numbers``, unaugmented."""
        sums: list[Tensor] = []
        count = 0
        for _, clip in read(model, clips, View(), numbers):
            encoded = model.backbone.encode(clip)
            sums.append(torch.stack([tokens.double().mean(1).sum(0) for tokens in encoded]))
            count += len(clip)
        audio, video = torch.stack(sums).sum(0) / count
        return cls(audio, video)


def heat_maps(model: Frozen, clip: Clip, means: Means, temperature: float) -> dict[str, Tensor]:
    """Heat of every video patch of whole clips (B, V) by the name of the map; the hotter, the more it may sound.

    ``matching``: how much the audio attends to the patch in the matching module, of weights that have one ·
    ``cosine``: of the patch's token with the mean audio token, before fusion · ``cosine_fused``: after it ·
    ``projection``: of the patch's token on the mean audio token before fusion, both less the mean of many clips:
    not of unit length, as tokens of the background are short without the mean · ``centre``: nearness to the middle
    of the frame · ``energy``: variance of the patch's pixels.
    """
    backbone = model.backbone
    encoded = backbone.encode(clip)
    fused = backbone.fuse(*encoded)
    centred = [tokens - mean.to(tokens) for tokens, mean in zip(encoded, (means.audio, means.video), strict=True)]
    found = {
        "cosine": cosine(*encoded),
        "cosine_fused": cosine(*fused),
        "projection": projection(*centred),
        "centre": nearness(backbone.grid).to(clip.video).expand(len(clip), -1),
        "energy": clip.video.var(2),
    }
    if (module := matching_module(model)) is not None:
        found = {"matching": module.importance(*fused, temperature)[1]} | found
    return found


def projection(audio: Tensor, video: Tensor) -> Tensor:
    """Length (B, V) of tokens ``video (B, V, D)`` along the mean of ``audio (B, A, D)``."""
    return (video @ normalize(audio.mean(1), dim=-1)[..., None])[..., 0]


def cosine(audio: Tensor, video: Tensor) -> Tensor:
    """Cosine (B, V) of tokens ``video (B, V, D)`` with the mean of ``audio (B, A, D)``."""
    return projection(audio, normalize(video, dim=-1))


def nearness(grid: Grid) -> Tensor:
    """How near each video patch is to the middle of its frame, (V,): less its distance, in shares of a side."""
    y, x = ((torch.arange(side) + 0.5) / side - 0.5 for side in (grid.rows, grid.cols))
    return -(y[:, None] ** 2 + x[None] ** 2).sqrt().flatten().repeat(grid.frames)
