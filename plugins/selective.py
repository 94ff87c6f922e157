"""What all methods that keep a part of each clip's patches have in common; no method by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid
from avcl.errors import SettingsError, UserError
from avcl.plugins.derpp import DERpp
from avcl.settings import Share
from avcl.training.view import LearnerView


@dataclass(kw_only=True)
class Selective(DERpp):
    """DER++ on a part of each clip's patches: what is common to all methods that choose them.

    Args:
        keep_video: Share of video patches that are kept (ρ); more than the share that the backbone sees.
        keep_audio: Share of audio patches that are kept (ρ); more than the share that the backbone sees.
    """

    keep_video: Share = 0.5
    keep_audio: Share = 0.5

    def begin(self, learner: LearnerView) -> None:
        """Open the memory, count the patches to keep, refuse settings that do not fit the backbone."""
        super().begin(learner)
        self.audio_kept, self.video_kept = self.counts(learner.backbone.grid)
        wrong = list(self.misfits(learner))
        if wrong:
            raise SettingsError(f"{self.name}.{line}" for line in wrong)

    def counts(self, grid: Grid) -> tuple[int, int]:
        """κ, how many patches of audio and of video are kept."""
        return int(grid.audio * self.keep_audio), int(grid.video * self.keep_video)

    def misfits(self, learner: LearnerView) -> Iterator[str]:
        """Settings that do not fit the backbone, one line ``"key: what is wrong"`` each."""
        backbone = learner.backbone
        grid, clip = backbone.grid, empty_clip(backbone)
        everything = {"video": grid.video, "audio": grid.audio}
        for side, kept in (("video", self.video_kept), ("audio", self.audio_kept)):
            left = {key: torch.arange(count)[None] for key, count in {**everything, side: kept}.items()}
            try:
                backbone.draw_masks(clip.take(left["video"], left["audio"]), torch.Generator())
            except UserError as error:
                yield f"keep_{side}: invalid value {getattr(self, f'keep_{side}')}: keeps too few: {error}"

    def whole(self, learner: LearnerView) -> Clip:
        """The current clips with all of their patches, whatever another strategy chose of them."""
        grid, current = learner.backbone.grid, learner.batch[: learner.num_current]
        complete = (current.video.shape[1], current.audio.shape[1]) == (grid.video, grid.audio)
        return current if complete else learner.current

    def budget(self, learner: LearnerView) -> tuple[int, int]:
        """How many patches of audio and of video to keep: κ, or what another strategy left of the batch."""
        return min(self.audio_kept, learner.batch.audio.shape[1]), min(self.video_kept, learner.batch.video.shape[1])

    def put(self, learner: LearnerView, chosen: Clip) -> None:
        """Make ``chosen``, current clips and then its replayed ones, the batch.

        Between them stay the clips that other strategies replay, with as many patches, drawn uniformly.
        """
        current, others = learner.num_current, learner.batch[learner.num_current :]
        parts = len(learner.batch.parts)
        if parts > 1:
            kept = chosen.video.shape[1], chosen.audio.shape[1]
            others = others.sample(*kept, learner.generators["auxiliary"])
            chosen = chosen[:current] + others + chosen[current:]
        learner.batch = chosen
        self._claim(learner, current + len(others), parts)


def empty_clip(backbone: Backbone) -> Clip:
    """One whole clip of zeros, to try what the backbone makes of its shape."""
    weight, shape = next(backbone.parameters()), backbone.grid.shape(backbone.patch)
    empty = {key: weight.new_zeros(1, *size) for key, size in shape.tensors.items()}
    return Clip.cut(**empty, patch=backbone.patch)
