"""The transformer block of CAV-MAE, and the encoder and decoder parameters of one modality."""

import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from avcl.backbones.pos_embed import look_up


class Block(nn.Module):
    """Pre-norm transformer block whose weights several ``kinds`` of input share, each with norms of its own.

    Fusion blocks know the kinds ``joint``, ``audio`` and ``video``; all others only ``joint``.
    """

    def __init__(self, dim: int, heads: int, kinds: tuple[str, ...] = ("joint",)):
        super().__init__()
        self.norm1 = nn.ModuleDict({kind: nn.LayerNorm(dim) for kind in kinds})
        self.attn = Attention(dim, heads, qkv_bias=True)
        self.norm2 = nn.ModuleDict({kind: nn.LayerNorm(dim) for kind in kinds})
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, tokens: Tensor, kind: str = "joint") -> Tensor:
        """Tokens (B, L, D) in, tokens (B, L, D) out."""
        tokens = tokens + self.attn(self.norm1[kind](tokens))
        return tokens + self.mlp(self.norm2[kind](tokens))

    def hidden(self, tokens: Tensor, kind: str = "joint") -> tuple[Tensor, Tensor]:
        """Tokens out as from ``forward``, and hidden features (B, L, 4 D) of the MLP: the inputs of its last layer."""
        tokens = tokens + self.attn(self.norm1[kind](tokens))
        features = self.mlp.act(self.mlp.fc1(self.norm2[kind](tokens)))
        return tokens + self.mlp.fc2(features), features


class Stream(nn.Module):
    """The parameters of one modality: patch embedding, position tables, blocks, last norm, reconstruction head.

    ``table`` (N, D) and ``decoder_table`` (N, E) are sine-cosine tables to start from; ``learned`` makes them
    parameters that train and adds ``fusion_table``, which is added again before the fusion blocks.
    """

    def __init__(self, patch: int, heads: int, depth: int, table: Tensor, decoder_table: Tensor, *, learned: bool):
        super().__init__()
        dim, decoder_dim = table.shape[1], decoder_table.shape[1]
        self.embed = nn.Linear(patch, dim)
        self.modality = nn.Parameter(torch.empty(dim))
        self.table = nn.Parameter(table, requires_grad=learned)
        self.fusion_table = nn.Parameter(table.clone()) if learned else None
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.decoder_modality = nn.Parameter(torch.empty(decoder_dim))
        self.decoder_table = nn.Parameter(decoder_table, requires_grad=learned)
        self.head = nn.Linear(decoder_dim, patch)

    def forward(self, patches: Tensor, at: Tensor) -> Tensor:
        """Tokens (B, L, D) of ``patches (B, L, P)`` at positions ``at (B, L)``, ready for the fusion blocks."""
        tokens = self.first(patches, at, len(self.blocks))
        return tokens if self.fusion_table is None else tokens + look_up(self.fusion_table, at)

    def first(self, patches: Tensor, at: Tensor, blocks: int) -> Tensor:
        """Tokens (B, L, D) after the first ``blocks`` blocks."""
        tokens = self.embed(patches) + self.modality + look_up(self.table, at)
        for block in self.blocks[:blocks]:
            tokens = block(tokens)
        return tokens
