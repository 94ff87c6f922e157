"""Scores of heat maps against the masks of what sounds: consensus IoU, success rate and its AUC, pointing game.

Senocak et al., *Learning to Localize Sound Source in Visual Scenes*, CVPR 2018, arXiv 1803.03849 (consensus IoU);
with the choices of the published test of Chen et al., *Localizing Visual Sounds the Hard Way*, CVPR 2021, arXiv
2104.02691, which later work keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from avcl.errors import UserError

Area = Literal["half", "truth"]


def upsampled(heat: Tensor, height: int, width: int) -> Tensor:
    """Heat maps (N, height, width) of patches ``heat (N, rows, cols)``, bilinear as published."""
    return interpolate(heat[:, None].float(), (height, width), mode="bilinear", align_corners=False)[:, 0]


def predicted(heat: Tensor, target: Tensor, area: Area) -> Tensor:
    """The hottest pixels (N, H, W) bool of ``heat (N, H, W)``: those above the median, or as many as are in ``target``.

    The former is what published tests do; under it the IoU of a source that fills a tenth of the frame cannot exceed
    one fifth. The latter is adaptive cIoU (Senocak et al., *Aligning Sight and Sound*, 2024, arXiv 2407.13676).
    """
    flat = heat.flatten(1)
    if area == "half":
        return (flat > flat.sort(1).values[:, flat.shape[1] // 2, None]).view_as(heat)
    order = flat.argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1], device=heat.device).expand_as(order))
    return (place < (target > 0).flatten(1).sum(1, keepdim=True)).view_as(heat)


def consensus_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Consensus IoU of each map (N,), float64: ``predicted (N, H, W)`` bool, ``target (N, H, W)`` in 0..1.

    ``target`` is the share of annotators who marked a pixel; a mask is one annotator::

        cIoU = Σ_predicted g / (Σ g + number of predicted pixels where g = 0);  0 where both are empty
    """
    weight = target.double()
    inside = (predicted * weight).sum((1, 2))
    around = weight.sum((1, 2)) + (predicted & (target == 0)).sum((1, 2))
    return (inside / around).nan_to_num()


def success_rate(ious: Tensor, at: float = 0.5) -> float:
    """The share of maps whose IoU is ``at`` or more; at 0.5 the literature calls this cIoU."""
    return (ious >= at).double().mean().item()


def success_auc(ious: Tensor) -> float:
    """The area under the success rate at 0, 0.05, ..., 1, by trapezoids."""
    return torch.trapezoid(torch.tensor([success_rate(ious, 0.05 * step) for step in range(21)]), dx=0.05).item()


def pointing(heat: Tensor, target: Tensor) -> Tensor:
    """Pointing game, (N,) float64: 1 where the hottest pixel of ``heat (N, H, W)`` is in ``target``, without tolerance.

    Where several pixels are equally hot, as in maps of patches, it is the share of them that are.
    """
    hottest = heat == heat.amax((1, 2), keepdim=True)
    return (hottest & (target > 0)).sum((1, 2)).double() / hottest.sum((1, 2))


@dataclass
class LocalizationScores:
    """Collects frames; those without a source are left out, and scores do not depend on how clips were batched.

    ``ciou``, ``auc``: success rate at 0.5 and area under it, of what is above the median · ``ciou_adaptive``,
    ``auc_adaptive``: of as many pixels as the truth has · ``pointing``: pointing game.
    """

    ious: dict[Area, list[Tensor]] = field(default_factory=lambda: {"half": [], "truth": []})
    hits: list[Tensor] = field(default_factory=list)

    def add(self, heat: Tensor, target: Tensor) -> None:
        """Add frames: ``heat (N, rows, cols)`` of any size, ``target (N, H, W)``."""
        sounding = (target > 0).flatten(1).any(1)
        heat, target = upsampled(heat[sounding], *target.shape[1:]), target[sounding]
        for area, found in self.ious.items():
            found.append(consensus_iou(predicted(heat, target, area), target))
        self.hits.append(pointing(heat, target))

    def scores(self) -> dict[str, float]:
        """All scores in percent; UserError where no frame has a source."""
        hits = torch.cat(self.hits) if self.hits else torch.empty(0)
        if not len(hits):
            raise UserError("no frame has a source: all masks are empty")
        found = {"pointing": hits.mean().item()}
        for area, ending in (("half", ""), ("truth", "_adaptive")):
            ious = torch.cat(self.ious[area])  # type: ignore[index]
            found |= {f"ciou{ending}": success_rate(ious), f"auc{ending}": success_auc(ious)}
        return {name: 100 * value for name, value in found.items()}
