"""MATS: DER++ on the patches of video that move most (motion-adaptive token selection).

::

    for each batch x:
        r    = whole clips drawn from memory, with their stored embeddings
        I[t, l] = |e[t, l] - e[t-1, l]|,  I[0, l] = I[1, l]      e: embedding of patch l of frame t, without position
        keep the κ = ρ N video patches of largest I
        loss = DER++'s over the kept patches of [x; r]
        optimizer step
        offer x, whole, to memory

Hwang et al., *EVEREST*, ICML 2024, arXiv 2211.10636, as STELLA (arXiv 2310.08204, Table 3) compares with it.

How we differ: there is no public code for it in this setting; the ratios are STELLA's. MATS scores video only, and
audio stays whole, which fits the memory that the paper reports; with ``audio: random`` it is drawn as random
patches are. EVEREST sees 8 pairs of frames a fraction of a second apart, STELLA 4 frames a second apart; to keep the
392 patches out of 6 frames, let the scenario give 6 and set ``keep_video`` to a third.

Status: invariants in tests/plugins/test_random_patches.py; with everything kept it is DER++,
bit for bit. The paper's numbers: not yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.plugins.random_patches import RandomPatches
from avcl.selection import Choice, Selection
from avcl.strategy import Strategy
from avcl.training.view import LearnerView


@dataclass(kw_only=True)
class MATS(RandomPatches):
    """DER++ on the video patches of largest motion.

    Logged: ``motion_kept``, the share of all motion in the kept patches; a blind choice has ``keep_video``.

    Args:
        audio: Audio patches: full keeps all, random keeps keep_audio of them, uniformly drawn.
    """

    name = "mats"

    audio: Literal["full", "random"] = "full"

    def begin(self, learner: LearnerView) -> None:
        """Open the memory; motion takes two frames."""
        super().begin(learner)
        self.frames = learner.backbone.grid.frames
        if self.frames < 2:
            raise UserError("mats: clips of 1 frame do not move; let the scenario give 2 frames or more")

    def counts(self, grid: Grid) -> tuple[int, int]:
        """κ, how many patches of audio and of video are kept."""
        audio, video = super().counts(grid)
        return grid.audio if self.audio == "full" else audio, video

    def choose(self, learner: LearnerView, clip: Clip, audio: int, video: int) -> tuple[Tensor, Tensor]:
        """The video patches of largest motion, the earlier of two equal ones; audio drawn uniformly."""
        moved = self.moved(learner.backbone, clip)
        most = moved.argsort(dim=1, descending=True, stable=True)[:, :video].sort(1).values
        self._logged["motion_kept"] = (moved.gather(1, most).sum(1) / moved.sum(1)).nan_to_num(1.0).mean()
        return most, clip.draw("audio", audio, learner.generators["auxiliary"])

    @torch.no_grad()
    def moved(self, backbone: Backbone, clip: Clip) -> Tensor:
        """The motion of every video patch of whole clips, (B, V)."""
        with torch.autocast(clip.video.device.type, enabled=False):
            return motion(backbone.embed_patches(clip)[1], self.frames)

    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection:
        """Video by motion; to it all patches of audio are worth the same."""
        moved, chosen = self.moved(backbone, clip), super().selection(backbone, clip, generator)
        most = moved.argsort(dim=1, descending=True, stable=True)[:, : self.video_kept]
        return chosen._replace(video=Choice(moved, most))


def motion(embedded: Tensor, frames: int) -> Tensor:
    """How far each patch moved since the frame before, (B, V); in the first frame as far as in the second.

    ``embedded (B, V, E)``: the patches of whole clips, frame by frame.
    """
    steps = torch.linalg.vector_norm(rearrange(embedded, "b (t l) e -> b t l e", t=frames).diff(dim=1), dim=-1)
    return torch.cat([steps[:, :1], steps], dim=1).flatten(1)


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register MATS."""
    return [MATS]
