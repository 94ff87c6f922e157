"""The decoder of audio-visual segmentation: features of the fusion blocks to mask logits, with audio attention.

Zhou et al., *Audio-Visual Segmentation*, ECCV 2022, arXiv 2207.05042 (TPAVI, dilated convolutions, top-down fusion),
as the STELLA authors set it upon CAV-MAE: two fusion blocks are two scales, each upsampled by another factor::

    scale k of K:  hidden features of block k -> linear -> bicubic x 2^(K-k) -> dilated convolutions -> TPAVI
    mask:          top-down, each x 2, adding the next finer scale -> convolutions, x 2 -> logits

How we differ: any number of fusion blocks, sizes of patches and widths; the product of TPAVI is taken from the right,
so that no map of all pairs of places is needed (equal: it has no softmax).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import interpolate

from avcl.clip import Grid


class Decoder(nn.Module):
    """Mask logits of the video part of hidden features, guided by the audio.

    ``scales``: fusion blocks · ``hidden``: width of their features · ``audio``: width of the audio embedding ·
    ``width``: channels of a scale (authors: 256).
    """

    def __init__(self, grid: Grid, scales: int, hidden: int, audio: int, width: int):
        super().__init__()
        self.grid = grid
        self.listen = nn.Linear(audio, width // 2)
        self.embed = nn.ModuleList(nn.Linear(hidden, 2 * width) for _ in range(scales))
        self.dilated = nn.ModuleList(Dilated(2 * width, width) for _ in range(scales))
        self.attend = nn.ModuleList(AudioAttention(width, width // 2) for _ in range(scales))
        self.merge = nn.ModuleList(Merge(width, top=place == 0) for place in range(scales))
        self.mask = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            Twice(),
            nn.Conv2d(width // 2, max(1, width // 8), 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(max(1, width // 8), 1, 1),
        )

    def forward(self, features: list[Tensor], audio: Tensor, height: int, width: int) -> Tensor:
        """Logits (B, T, height, width) of ``features``, one (B, V, hidden) a block, and ``audio (B, D)``."""
        frames, rows, cols = self.grid[:3]
        heard = self.listen(audio)[:, None].expand(-1, frames, -1)
        scales = []
        for place, (tokens, embed) in enumerate(zip(features, self.embed, strict=True)):
            planes = rearrange(embed(tokens), "b (t r c) d -> (b t) d r c", t=frames, r=rows, c=cols)
            factor = 2 ** (len(features) - place)
            planes = interpolate(planes, scale_factor=factor, mode="bicubic", align_corners=False)
            planes = rearrange(self.dilated[place](planes), "(b t) d h w -> b d t h w", t=frames)
            scales.append(rearrange(self.attend[place](planes, heard), "b d t h w -> (b t) d h w"))
        merged: Tensor | None = None
        for planes, merge in zip(reversed(scales), self.merge, strict=True):  # the last block is the coarsest scale
            merged = merge(planes, merged)
        logits = self.mask(merged)
        if logits.shape[-2:] != (height, width):
            logits = interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return rearrange(logits, "(b t) 1 h w -> b t h w", t=frames)


class Dilated(nn.Module):
    """The sum of four 3 x 3 convolutions side by side, dilated by 3, 6, 12 and 18 places."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=d, dilation=d) for d in (3, 6, 12, 18))

    def forward(self, planes: Tensor) -> Tensor:
        """(N, C, H, W) to (N, width, H, W)."""
        return torch.stack([path(planes) for path in self.paths]).sum(0)


class AudioAttention(nn.Module):
    """TPAVI in its dot mode: every place of every frame attends to the sound, and takes up what is seen there.

    With x (B, C, T, H, W), audio a (B, T, A) at all places of its frame, 1 x 1 x 1 convolutions θ, φ, g, μ and
    N = T H W places::

        z = x + BN(μ((θ(x)ᵀ φ(a)) g(x) / N)),  then layer norm over channels; BN's scale starts at 0
    """

    def __init__(self, width: int, audio: int):
        super().__init__()
        inner = max(1, width // 2)
        self.align = nn.Linear(audio, width)
        self.theta, self.phi, self.g = (nn.Conv3d(width, inner, 1) for _ in range(3))
        self.out, self.scale = nn.Conv3d(inner, width, 1), nn.BatchNorm3d(width)
        nn.init.zeros_(self.scale.weight)
        self.norm = nn.LayerNorm(width)

    def forward(self, planes: Tensor, audio: Tensor) -> Tensor:
        """``planes (B, C, T, H, W)`` and ``audio (B, T, A)`` to (B, C, T, H, W)."""
        heard = self.phi(rearrange(self.align(audio), "b t c -> b c t 1 1")).flatten(2)
        seen = self.g(planes).flatten(3).mean(3)
        # (θᵀ φ) g = θᵀ (φ g): the audio is the same at all places of a frame, so g is summed there first
        context = torch.einsum("bct,bdt->bcd", heard, seen) / planes.shape[2]
        found = torch.einsum("bcthw,bcd->bdthw", self.theta(planes), context)
        mixed = planes + self.scale(self.out(found))
        return self.norm(mixed.movedim(1, -1)).movedim(-1, 1)


class Merge(nn.Module):
    """One step of top-down fusion (RefineNet): adds a finer scale to what comes from above, and doubles its size.

    At the ``top`` nothing comes from above.
    """

    def __init__(self, width: int, top: bool):
        super().__init__()
        self.fine = None if top else Residual(width)
        self.both, self.twice = Residual(width), Twice()

    def forward(self, planes: Tensor, above: Tensor | None) -> Tensor:
        """(N, C, H, W), and as much from above, to (N, C, 2 H, 2 W)."""
        if self.fine is not None and above is not None:
            planes = above + self.fine(planes)
        return self.twice(self.both(planes))


class Residual(nn.Module):
    """ReLU, 3 x 3 convolution, twice, added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, planes: Tensor) -> Tensor:
        """(N, C, H, W) in, (N, C, H, W) out."""
        return planes + self.convs(planes)


class Twice(nn.Module):
    """Doubles height and width, bilinear."""

    def forward(self, planes: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, 2 H, 2 W)."""
        return interpolate(planes, scale_factor=2, mode="bilinear", align_corners=True)
