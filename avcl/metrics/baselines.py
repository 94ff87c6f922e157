"""What a method that selects patches is compared with: chance, place, energy, plain echo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid
from avcl.selection import Choice, Selection

Score = Literal["random", "centre", "energy", "echo", "swapped-echo"]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Keeps the patches of the highest score.

    No weights have a part in ``random``: uniform draws · ``centre``: the nearer to the middle of the frame, and of
    the clip's time · ``energy``: the variance of a video patch's pixels, the mean level of an audio patch.
    ``echo``: the largest cosine similarity with a token of the other modality, both as the backbone encodes them
    before any fusion, less the mean token of the clips · ``swapped-echo``: the same with another clip's other
    modality, to tell whether it matches or is drawn to what is like a source.

    Args:
        score: Score of a patch.
        keep_video: Share of video patches that are kept.
        keep_audio: Share of audio patches that are kept.
    """

    score: Score = "energy"
    keep_video: float = 0.5
    keep_audio: float = 0.5

    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection:
        """The scores of whole clips and the patches kept by them."""
        if self.score == "random":
            video, audio = (torch.rand(x.shape[:2], generator=generator) for x in (clip.video, clip.audio))
        elif self.score == "centre":
            video, audio = (x.expand(len(clip), -1) for x in _centre(backbone.grid))
        elif self.score == "energy":
            video, audio = clip.video.var(2), clip.audio.mean(2)
            audio = audio - audio.amin(1, keepdim=True)
        else:
            video, audio = echo(backbone, clip, swapped=self.score == "swapped-echo")
        video, audio = video.to(clip.video.device), audio.to(clip.video.device)
        return Selection(video=_best(video, self.keep_video), audio=_best(audio, self.keep_audio))


def echo(backbone: Backbone, clip: Clip, swapped: bool = False) -> tuple[Tensor, Tensor]:
    """How much each patch resembles its nearest one of the other modality: of video (B, V), of audio (B, A).

    Not negative: a clip's least is 0. ``swapped``: with the other modality of the next clip in the batch.
    """
    audio, video = (normalize(tokens, dim=2) for tokens in backbone.encode(clip))
    audio, video = (tokens - tokens.mean((0, 1)) for tokens in (audio, video))
    shift = 1 if swapped else 0
    of_video = (video @ audio.roll(-shift, 0).mT).amax(2)
    of_audio = (audio @ video.roll(-shift, 0).mT).amax(2)
    return of_video - of_video.amin(1, keepdim=True), of_audio - of_audio.amin(1, keepdim=True)


def _centre(grid: Grid) -> tuple[Tensor, Tensor]:
    """How near to the centre each patch is, of video (1, V) and of audio (1, A): 1 in it, 0 in a frame's corner."""
    rows, cols, times = (
        torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in (grid.rows, grid.cols, grid.times)
    )
    near = 1 - (rows[:, None] ** 2 + cols**2) / 2
    return near.flatten().repeat(grid.frames)[None], (1 - times.abs()).repeat_interleave(grid.freqs)[None]


def _best(scores: Tensor, share: float) -> Choice:
    return Choice(scores, scores.argsort(dim=1, descending=True, stable=True)[:, : int(scores.shape[1] * share)])
