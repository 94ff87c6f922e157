"""What a patch-selecting method is compared with: patches by chance, from the centre, or by their energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid
from avcl.selection import Choice, Selection


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Keeps the patches of the highest score, which no weights have a part in.

    ``random``: uniform draws · ``centre``: the nearer to the middle of the frame, and of the clip's time ·
    ``energy``: the variance of a video patch's pixels, the mean level of an audio patch.

    Args:
        score: Score of a patch.
        keep_video: Share of video patches that are kept.
        keep_audio: Share of audio patches that are kept.
    """

    score: Literal["random", "centre", "energy"] = "energy"
    keep_video: float = 0.5
    keep_audio: float = 0.5

    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection:
        """The scores of whole clips and the patches kept by them."""
        if self.score == "random":
            video, audio = (torch.rand(x.shape[:2], generator=generator) for x in (clip.video, clip.audio))
        elif self.score == "centre":
            video, audio = (x.expand(len(clip), -1) for x in _centre(backbone.grid))
        else:
            video, audio = clip.video.var(2), clip.audio.mean(2)
            audio = audio - audio.amin(1, keepdim=True)
        video, audio = video.to(clip.video.device), audio.to(clip.video.device)
        return Selection(video=_best(video, self.keep_video), audio=_best(audio, self.keep_audio))


def _centre(grid: Grid) -> tuple[Tensor, Tensor]:
    """How near to the centre each patch is, of video (1, V) and of audio (1, A): 1 in it, 0 in a frame's corner."""
    rows, cols, times = (
        torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in (grid.rows, grid.cols, grid.times)
    )
    near = 1 - (rows[:, None] ** 2 + cols**2) / 2
    return near.flatten().repeat(grid.frames)[None], (1 - times.abs()).repeat_interleave(grid.freqs)[None]


def _best(scores: Tensor, share: float) -> Choice:
    return Choice(scores, scores.argsort(dim=1, descending=True, stable=True)[:, : int(scores.shape[1] * share)])
