"""Sine-cosine position embeddings for the two grids of patches, in the order in which avcl counts patches."""

import torch
from einops import rearrange, repeat
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor

from avcl.clip import Grid


def video_table(grid: Grid, dim: int) -> Tensor:
    """Sine-cosine position embeddings of video patches, (V, D): D/2 channels for the column, then D/2 for the row.

    Every frame has the same vectors; a table that is learned tells frames apart in time.
    """
    columns_first = build_sincos2d_pos_embed([grid.cols, grid.rows], dim, interleave_sin_cos=True)
    frame = rearrange(columns_first, "(col row) d -> (row col) d", row=grid.rows)
    return repeat(frame, "n d -> (t n) d", t=grid.frames)


def audio_table(grid: Grid, dim: int) -> Tensor:
    """Sine-cosine position embeddings of audio patches, (A, D): D/2 channels for time, then D/2 for frequency."""
    return build_sincos2d_pos_embed([grid.times, grid.freqs], dim, interleave_sin_cos=True)


def look_up(table: Tensor, at: Tensor) -> Tensor:
    """The rows of ``table (N, D)`` at positions ``at (B, L)``: (B, L, D)."""
    return torch.nn.functional.embedding(at, table)
