"""Random patches: DER++ on uniformly drawn patches, the blind control of every method that chooses them.

Of a clip's N patches κ = ρ N are kept; the backbone sees some of those and reconstructs the others. Memory holds
whole clips, and what is replayed is chosen anew at every step (STELLA, arXiv 2310.08204, Table 3).

How we differ: there is no public code for it in this setting; the ratios are STELLA's. Whether the authors took
random audio in chunks of time is not known: here each patch is drawn on its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.plugins.selective import Selective, first_in_place
from avcl.strategy import Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class RandomPatches(Selective):
    """DER++ on uniformly drawn patches.

    ``alpha``: weight of the penalty on drift · ``keep_video``, ``keep_audio``: ρ, the share of patches that are
    kept; it must exceed the share that the backbone sees.
    """

    name = "random"

    def prepare(self, learner: Learner) -> None:
        """Append past clips, then keep the chosen patches of all."""
        super().prepare(learner)
        learner.batch = learner.batch.take(*self.choose(learner, learner.batch))

    def choose(self, learner: Learner, clip: Clip) -> tuple[Tensor, Tensor]:
        """Which patches of whole clips to keep, ``(video (B, κ), audio (B, κ))``, in the order of their place."""
        video = self.drawn(learner, clip.video_at, self.video_kept)
        return video, self.drawn(learner, clip.audio_at, self.audio_kept)

    def drawn(self, learner: Learner, at: Tensor, keep: int) -> Tensor:
        """``keep`` of the patches at ``at (B, L)``, uniformly."""
        noise = torch.rand(at.shape, generator=learner.generators["auxiliary"])
        return first_in_place(noise.argsort(1), keep).to(at.device)


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register random patches."""
    return [RandomPatches]
