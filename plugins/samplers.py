"""Random patches and MATS: DER++ on a part of each clip's patches, the samplers that STELLA is measured against.

Of a clip's N patches κ = ρ N are kept; the backbone sees some of those and reconstructs the others. Memory holds
whole clips, and what is replayed is chosen anew at every step. STELLA's Table 3 (arXiv 2310.08204) compares

    random   κ patches of video and κ of audio, drawn uniformly
    MATS     motion-centric token selection (Hwang et al., *EVEREST*, ICML 2024, arXiv 2211.10636):
             the κ patches of video with the largest I[t, l] = |e[t, l] - e[t-1, l]|,  I[0, l] = I[1, l]

where e[t, l] is the embedding of patch l of frame t, before it is told where it is.

How we differ: there is no public code for either in this setting; the ratios are STELLA's. Whether the authors took
random audio in chunks of time is not known: here each patch is drawn on its own. MATS scores video only, and
audio stays whole, which fits the memory that the paper reports; with ``audio: random`` it is drawn as for the other
sampler. EVEREST sees 8 pairs of frames a fraction of a second apart, STELLA 4 frames a second apart; to keep the
392 patches out of 6 frames, let the scenario give 6 and set ``keep_video`` to a third.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from avcl.clip import Clip, Grid
from avcl.errors import SettingsError, UserError
from avcl.hookspecs import hookimpl
from avcl.learner import Learner
from avcl.plugins.derpp import DERpp
from avcl.strategies import Strategy

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(kw_only=True)
class Selective(DERpp):
    """DER++ that keeps some of each clip's patches: what is common to all methods that choose them.

    ``alpha``: weight of the penalty on drift · ``keep_video``, ``keep_audio``: ρ, the share of patches that are
    kept; it must exceed the share that the backbone sees.
    """

    keep_video: Share = 0.5
    keep_audio: Share = 0.5

    def begin(self, learner: Learner) -> None:
        """Open the memory, count the patches to keep, refuse settings that do not fit the backbone."""
        super().begin(learner)
        self.audio_kept, self.video_kept = self.counts(learner.backbone.grid)
        wrong = list(self.misfits(learner))
        if wrong:
            raise SettingsError(f"{self.name}.{line}" for line in wrong)
        self._seen: dict[str, Tensor] = {}

    def counts(self, grid: Grid) -> tuple[int, int]:
        """κ, how many patches of audio and of video are kept."""
        return int(grid.audio * self.keep_audio), int(grid.video * self.keep_video)

    def misfits(self, learner: Learner) -> Iterator[str]:
        """Settings that do not fit the backbone, one line ``"key: what is wrong"`` each."""
        backbone = learner.backbone
        grid, patch = backbone.grid, backbone.patch
        clip = Clip.cut(
            torch.zeros(1, grid.frames, 3, grid.rows * patch, grid.cols * patch),
            torch.zeros(1, 1, grid.times * patch, grid.freqs * patch),
            patch,
        )
        everything = {"video": grid.video, "audio": grid.audio}
        for side, kept in (("video", self.video_kept), ("audio", self.audio_kept)):
            left = {key: torch.arange(count)[None] for key, count in {**everything, side: kept}.items()}
            try:
                backbone.draw_masks(clip.take(left["video"], left["audio"]), torch.Generator())
            except UserError as error:
                yield f"keep_{side}: {getattr(self, f'keep_{side}')} keeps too few: {error}"

    def log(self) -> dict[str, float]:
        """What the method saw in its last step, beside the memory."""
        return {key: float(value) for key, value in self._seen.items()} | super().log()


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
        return _first(noise.argsort(1), keep).to(at.device)


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
        video = _first(moved.argsort(dim=1, descending=True, stable=True), self.video_kept)
        self._seen["motion_kept"] = (moved.gather(1, video).sum(1) / moved.sum(1)).nan_to_num(1.0).mean()
        return video, self.drawn(learner, clip.audio_at, self.audio_kept)


def motion(embedded: Tensor, frames: int) -> Tensor:
    """How far each patch moved since the frame before, (B, V); in the first frame as far as in the second.

    ``embedded (B, V, E)``: the patches of whole clips, frame by frame.
    """
    steps = torch.linalg.vector_norm(rearrange(embedded, "b (t l) e -> b t l e", t=frames).diff(dim=1), dim=-1)
    return torch.cat([steps[:, :1], steps], dim=1).flatten(1)


def _first(ranking: Tensor, keep: int) -> Tensor:
    """The first ``keep`` of each row, in the order of their place in the clip."""
    return ranking[:, :keep].sort(1).values


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register both."""
    return [RandomPatches, MATS]
