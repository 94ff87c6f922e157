"""The audio-video matching module: attention of each modality to the other, and whether the two belong together."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from avcl.plugins.stella.ops.selection import importance


class Heads(NamedTuple):
    """One modality's queries, keys and values, each (B, H, L, d)."""

    query: Tensor
    key: Tensor
    value: Tensor


class Matching(nn.Module):
    """Tells matching pairs of audio and video tokens of width ``dim`` from others, by ``heads`` of attention.

    By default the attended values are averaged
    over tokens, head by head. ``official_pooling`` does what the authors' code does: it reads (B, H, L, d) as
    (B, L, H * d) without moving the heads next to d, so that each of the H slots is a mean over all heads and
    a part of the tokens. Only the matching logits depend on it, never queries and keys.
    """

    def __init__(self, dim: int, heads: int = 12, official_pooling: bool = False):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: {heads} does not divide the width {dim}")
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.official_pooling = official_pooling
        self.norm_a, self.norm_v = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_a_q, self.to_a_k, self.to_a_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.to_v_q, self.to_v_k, self.to_v_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.pooler, self.fc = nn.Linear(2 * dim, 2 * dim), nn.Linear(2 * dim, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def split(self, audio: Tensor, video: Tensor) -> tuple[Heads, Heads]:
        """Queries, keys and values of tokens ``audio (B, A, D)`` and ``video (B, V, D)``."""
        audio, video = self.norm_a(audio), self.norm_v(video)
        return (
            Heads(*(self._by_head(linear(audio)) for linear in (self.to_a_q, self.to_a_k, self.to_a_v))),
            Heads(*(self._by_head(linear(video)) for linear in (self.to_v_q, self.to_v_k, self.to_v_v))),
        )

    def importance(self, audio: Tensor, video: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """How much the other modality attends to each token, ``(audio (B, A), video (B, V))``; rows sum to 1."""
        a, v = self.split(audio, video)
        return (
            importance(v.query, a.key, self.scale, temperature),
            importance(a.query, v.key, self.scale, temperature),
        )

    def joint(self, audio: Tensor, video: Tensor) -> Tensor:
        """What each modality found in the other, over all tokens, (B, 2 * D): video's view, then audio's."""
        a, v = self.split(audio, video)
        by_video = scaled_dot_product_attention(v.query, a.key, a.value)
        by_audio = scaled_dot_product_attention(a.query, v.key, v.value)
        return torch.cat([self._pool(by_video), self._pool(by_audio)], dim=1)

    def forward(self, audio: Tensor, video: Tensor) -> Tensor:
        """Logits (B,) that ``audio (B, A, D)`` and ``video (B, V, D)`` are of one clip."""
        return self.fc(self.pooler(self.joint(audio, video)).tanh()).squeeze(1)

    def _by_head(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b l (h d) -> b h l d", h=self.heads)

    def _pool(self, attended: Tensor) -> Tensor:
        if self.official_pooling:
            batch, heads, tokens, width = attended.shape
            return attended.reshape(batch, tokens, heads * width).mean(1)
        return rearrange(attended.mean(2), "b h d -> b (h d)")


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under our names, whether it has them or those of the authors' checkpoints."""
    return {
        key.replace("matching_score.pooler.dense.", "pooler.").replace("matching_score.fc.", "fc."): value
        for key, value in state.items()
    }


def partners(clips: int, generator: torch.Generator) -> Tensor:
    """Whose video each audio is shown with, (B,): half keep their own, the others pass theirs on in a circle.

    A random circle leaves none of them with its own, at the first draw. With fewer than three clips all keep
    their own.
    """
    partner = torch.arange(clips)
    circle = torch.randperm(clips, generator=generator)[clips // 2 :]
    partner[circle] = circle.roll(1)
    return partner
