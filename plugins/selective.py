"""What all methods that keep a part of each clip's patches have in common; no method by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from avcl.clip import Clip, Grid
from avcl.errors import SettingsError, UserError
from avcl.plugins.derpp import DERpp
from avcl.settings import Share
from avcl.training.learner import Learner


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


def first_in_place(ranking: Tensor, keep: int) -> Tensor:
    """The first ``keep`` of each row of ``ranking (B, L)``, in the order of their place in the clip."""
    return ranking[:, :keep].sort(1).values
