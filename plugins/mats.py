"""MATS: DER++ on the patches of video that move most (motion-adaptive token selection).

Hwang et al., *EVEREST*, ICML 2024, arXiv 2211.10636, as STELLA (arXiv 2310.08204, Table 3) compares with it: of a
clip's N video patches the κ = ρ N with the largest

    I[t, l] = |e[t, l] - e[t-1, l]|,  I[0, l] = I[1, l]

where e[t, l] is the embedding of patch l of frame t, before it is told where it is.

How we differ: there is no public code for it in this setting; the ratios are STELLA's. MATS scores video only, and
audio stays whole, which fits the memory that the paper reports; with ``audio: random`` it is drawn as random
patches are. EVEREST sees 8 pairs of frames a fraction of a second apart, STELLA 4 frames a second apart; to keep the
392 patches out of 6 frames, let the scenario give 6 and set ``keep_video`` to a third.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from avcl.clip import Clip, Grid
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.plugins.random_patches import RandomPatches
from avcl.plugins.selective import first_in_place
from avcl.strategy import Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class MATS(RandomPatches):
    """DER++ on the patches of video that move most.

    ``alpha``: weight of the penalty on drift · ``keep_video``: ρ, the share of patches that are kept ·
    ``audio``: ``full`` keeps it whole, ``random`` keeps ``keep_audio`` of it, uniformly drawn.
    Its log says which share of all motion the kept patches have, ``motion_kept``: ``keep_video`` were blind.
    """

    name = "mats"

    audio: Literal["full", "random"] = "full"

    def begin(self, learner: Learner) -> None:
        """Open the memory; motion takes two frames."""
        super().begin(learner)
        self.frames = learner.backbone.grid.frames
        if self.frames < 2:
            raise UserError("mats: clips of 1 frame do not move; let the scenario give 2 frames or more")

    def counts(self, grid: Grid) -> tuple[int, int]:
        """κ, how many patches of audio and of video are kept."""
        audio, video = super().counts(grid)
        return grid.audio if self.audio == "full" else audio, video

    def choose(self, learner: Learner, clip: Clip) -> tuple[Tensor, Tensor]:
        """The patches of video that move most, the earlier of two equal ones; of audio as the base draws them."""
        with torch.no_grad(), torch.autocast(learner.device.type, enabled=False):
            moved = motion(learner.backbone.embed_patches(clip)[1], self.frames)
        video = first_in_place(moved.argsort(dim=1, descending=True, stable=True), self.video_kept)
        self._seen["motion_kept"] = (moved.gather(1, video).sum(1) / moved.sum(1)).nan_to_num(1.0).mean()
        return video, self.drawn(learner, clip.audio_at, self.audio_kept)


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
