"""Scores of predicted masks: IoU and F-score as AVSBench defines them.

Zhou et al., *Audio-Visual Segmentation*, ECCV 2022, arXiv 2207.05042, and its published code
(github.com/OpenNLPLab/AVSBench, avs_scripts/avs_s4/utils/utility.py: ``mask_iou``, ``Eval_Fmeasure``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

BETA2, THRESHOLDS = 0.3, 255


def mask_iou(probability: Tensor, target: Tensor) -> Tensor:
    """The IoU of each frame (N,), float64, of ``probability (N, H, W)`` above 0.5 with ``target (N, H, W)`` bool.

    Of a frame whose target is empty it is the share of pixels that are predicted to be background.
    """
    predicted = probability > 0.5
    inside, around = (predicted & target).sum((1, 2)), (predicted | target).sum((1, 2))
    empty, pixels = ~target.any(2).any(1), target[0].numel()
    background = pixels - predicted.sum((1, 2))
    return torch.where(empty, background.double() / pixels, inside.double() / around.clamp(min=1))


def f_curves(probability: Tensor, target: Tensor) -> Tensor:
    """F-scores (N, 255), float64, of each frame at 255 thresholds from 0 to 1; a pixel *at* a threshold is predicted.

    ``probability (N, H, W)``, ``target (N, H, W)`` bool::

        F = (1 + β²) · precision · recall / (β² · precision + recall),  β² = 0.3;  0 where nothing is hit
    """
    frames = len(probability)
    # how many thresholds a pixel reaches, and from that how many pixels reach a threshold
    levels = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=probability.device)
    reached = torch.searchsorted(levels, probability.float().flatten(1).contiguous(), right=True)
    reached += torch.arange(frames, device=probability.device)[:, None] * (THRESHOLDS + 1)

    def counts(pixels: Tensor) -> Tensor:
        found = torch.bincount(pixels, minlength=frames * (THRESHOLDS + 1)).view(frames, -1)
        return found.flip(1).cumsum(1).flip(1)[:, 1:].double()

    predicted, hit = counts(reached.flatten()), counts(reached[target.flatten(1)])
    precision = hit / predicted.clamp(min=1)
    recall = hit / target.sum((1, 2)).clamp(min=1)[:, None]
    return ((1 + BETA2) * precision * recall / (BETA2 * precision + recall)).nan_to_num()


@dataclass
class MaskScores:
    """Collects the frames of clips; scores do not depend on how the clips were batched.

    ``miou``: mean IoU of all frames · ``f_score``: of each clip the largest mean F-score of its frames at one
    threshold, averaged over clips (the authors' test takes one clip at a time) · ``f_score_fixed``: the same with one
    threshold for all clips. Frames with an empty target have no F-score; a clip of nothing else has 0.
    """

    ious: list[Tensor] = field(default_factory=list)
    best: list[Tensor] = field(default_factory=list)
    curves: list[Tensor] = field(default_factory=list)

    def add(self, probability: Tensor, target: Tensor) -> None:
        """Add one clip, ``probability`` and ``target (T, H, W)``."""
        self.ious.append(mask_iou(probability, target).cpu())
        curves = f_curves(probability, target)[target.any(2).any(1)].cpu()
        self.curves.append(curves)
        self.best.append(curves.mean(0).max() if len(curves) else torch.zeros((), dtype=torch.float64))

    def scores(self) -> dict[str, float]:
        """All scores, in percent."""
        curves = torch.cat(self.curves)
        fixed = curves.mean(0).max() if len(curves) else torch.zeros(())
        means = {"miou": torch.cat(self.ious).mean(), "f_score": torch.stack(self.best).mean(), "f_score_fixed": fixed}
        return {name: 100 * value.item() for name, value in means.items()}
