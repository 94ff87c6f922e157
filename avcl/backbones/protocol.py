"""The contract of a backbone: clips in, per-clip loss terms and embeddings out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from avcl.clip import Clip, Grid, Masks, Output
from avcl.errors import UserError
from avcl.settings import Component


class Backbone(nn.Module, Component):
    """Base of all backbones: a keyword-only dataclass (``eq=False``) that is also a torch module.

    ``dim``: width D of the embeddings · ``patch``: side of a patch in pixels and in log-mel bins ·
    ``grid``: the full grid of patches that the positions of a clip refer to · ``preprocessing``: how recordings
    become the clips that it was trained on, as its weights files carry it; None where nobody said.
    """

    dim: int
    patch: int
    grid: Grid
    preprocessing: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        nn.Module.__init__(self)
        Component.__post_init__(self)

    @abstractmethod
    def forward(self, clip: Clip, masks: Masks | None = None) -> Output:
        """Loss terms and embeddings of the visible patches; draws masks from torch's global generator if None."""

    @abstractmethod
    def draw_masks(self, clip: Clip, generator: torch.Generator | None = None) -> Masks:
        """Random masks for these clips, drawn on the CPU so that a seed means the same on every device."""

    @abstractmethod
    def contrast(self, audio: Tensor, video: Tensor) -> Tensor:
        """The weighted contrastive term of each pair of embeddings (B, D), as in ``forward``: (B,)."""

    @abstractmethod
    def embed(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Unmasked embeddings ``(audio (B, D), video (B, D))`` for retrieval, not normalised."""

    @abstractmethod
    def encode(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Unmasked tokens of each modality alone ``(audio (B, A, D), video (B, V, D))``, ready for ``fuse``."""

    def encode_first(self, clip: Clip, blocks: int) -> tuple[Tensor, Tensor]:
        """The same after the first ``blocks`` blocks alone, for cheap scores; UserError where it has not so many."""
        raise UserError(f"the backbone {self.name!r} cannot stop after some of its blocks")

    @abstractmethod
    def fuse(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Joint fusion tokens ``(audio, video)`` of encoded tokens, before the last norm."""

    def tokens(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Joint fusion tokens ``(audio (B, A, D), video (B, V, D))``, before the last norm."""
        return self.fuse(*self.encode(clip))

    def fusion_features(self, audio: Tensor, video: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Features ``(audio (B, A, F), video (B, V, F))`` of every fusion stage, of encoded tokens, for dense tasks.

        The joint fusion tokens alone for a backbone that has no intermediate ones.
        """
        return [self.fuse(audio, video)]

    def embed_patches(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Patch embeddings ``(audio (B, A, E), video (B, V, E))``, without positions.

        The raw patches for a backbone that has no such embedding.
        """
        return clip.audio, clip.video

    def reconstruct(self, clip: Clip, masks: Masks) -> Clip | None:
        """The clip with its masked patches as they are predicted from the visible ones; None without a decoder."""
        return None

    def no_decay(self) -> Iterable[str]:
        """Names of parameters without weight decay, besides all of one dimension."""
        return ()
