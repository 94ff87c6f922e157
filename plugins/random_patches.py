"""Random patches: DER++ on uniformly drawn patches, the blind control of every method that chooses them.

::

    for each batch x:
        r    = whole clips drawn from memory, with their stored embeddings
        keep κ = ρ N of each clip's N patches of video, and of audio, drawn uniformly
        loss = DER++'s over the kept patches of [x; r]: some are seen, the others reconstructed
        optimizer step
        offer x, whole, to memory

A sampler that STELLA (arXiv 2310.08204, Table 3) is measured against.

How we differ: there is no public code for it in this setting; the ratios are STELLA's. Whether the authors took
random audio in chunks of time is not known: here each patch is drawn on its own.

Status: invariants in tests/plugins/test_random_patches.py; with everything kept it is DER++,
bit for bit. The paper's numbers: not yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.plugins.selective import Selective
from avcl.selection import Choice, Selection
from avcl.strategy import Strategy
from avcl.training.view import LearnerView


@dataclass(kw_only=True)
class RandomPatches(Selective):
    """DER++ on a random subset of each clip's patches."""

    name = "random"

    def prepare(self, learner: LearnerView) -> None:
        """Draw stored clips, then keep the chosen patches of all."""
        self._past = self.draw(learner)
        clip = self.whole(learner)
        if self._past is not None:
            clip = clip + self._past.clip
        audio, video = self.budget(learner)
        self.put(learner, clip.take(*self.choose(learner, clip, audio, video)))

    def choose(self, learner: LearnerView, clip: Clip, audio: int, video: int) -> tuple[Tensor, Tensor]:
        """Which patches of whole clips to keep, ``(video (B, κ), audio (B, κ))``, in the order of their place."""
        generator = learner.generators["auxiliary"]
        return clip.draw("video", video, generator), clip.draw("audio", audio, generator)

    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection:
        """A draw; to it all patches are worth the same."""
        video = clip.draw("video", self.video_kept, generator)
        audio = clip.draw("audio", self.audio_kept, generator)
        grid = backbone.grid
        return Selection(video=Choice.blind(video, grid.video), audio=Choice.blind(audio, grid.audio))


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register random patches."""
    return [RandomPatches]
