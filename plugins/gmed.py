"""GMED: gradient-based memory editing (Jin et al., NeurIPS 2021, arXiv 2006.15294).

::

    for each batch x:
        r    = clips drawn from memory
        w'   = weights after a virtual optimizer step on L(x)
        g    = dL(r; w)/dr,   g' = dL(r; w')/dr
        r   <- r + alpha * gamma^age * ((g' - g) + sign * beta * g),   age <- age + 1
        write r back to memory
        loss = mean of L over [x; r] at w
        optimizer step
        offer x to memory with age 0

How we differ: as in the STELLA authors' experiments spectrogram and frames are both edited, a clip's pixels
are input and target of the reconstruction at once, and the sign is +1 (as in both published codes; -1 would edit
towards clips whose loss is low now). From both: w' is an exact preview of the learner's own optimizer, g and
g' see the same patches (``share_masks: false``: as the authors), and a clip's age counts its edits and
begins anew when its slot is taken by another. The gradient of a mean over clips and patches is tiny:
``audio_edit`` and ``video_edit`` tell whether the edits are more than rounding.

Status: invariants in tests/plugins/test_gmed.py (edits worked out by hand on a quadratic backbone); the sign of the
paper's equation 3 is unverified. The paper's numbers: not yet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.func import functional_call

from avcl.clip import Clip, Masks
from avcl.hookspecs import hookimpl
from avcl.lookahead import gradients, virtual_step
from avcl.memory import Past
from avcl.settings import Fraction
from avcl.strategy import Rehearsal, Strategy
from avcl.training.view import LearnerView
from avcl.utils import distributed


@dataclass(kw_only=True)
class GMED(Rehearsal):
    """Replay of clips that are edited, by gradient ascent, towards larger interference with the coming update.

    Args:
        alpha: Edit step size (α).
        beta: Regularization: weight of the gradient before the virtual step (β; paper: 0.05 for VS, 0.01 for AS).
        gamma: Decay of the edit step size with every edit of a clip (γ); 1 for none.
        sign: Sign of the regularization; +1 in both published codes.
        share_masks: Whether both gradients see the same patches; false as the authors.
    """

    name = "gmed"

    alpha: NonNegativeFloat = 0.1
    beta: NonNegativeFloat = 0.05
    gamma: Fraction = 1.0
    sign: Literal[1, -1] = 1
    share_masks: bool = True

    def draw(self, learner: LearnerView) -> Past | None:
        """Stored clips, edited here and in memory."""
        past = super().draw(learner)
        if past is None:
            return None
        edits = self.edits(learner, past.clip)
        if edits is None:
            return past
        age = past.extra["age"]
        size = (self.alpha * self.gamma ** age.to(learner.dtype))[:, None, None]
        stored, edited = getattr(torch, self.memory.dtype), {}
        for side, edit in edits.items():
            clean = getattr(past.clip, side)
            edited[side] = (clean + size * edit).to(stored).to(clean.dtype)  # rounded as memory rounds it
            self._logged[f"{side}_edit"] = (edited[side] - clean).norm() / clean.norm()
        self.memory.write(past.slots, **edited, age=age + 1)
        return Past(past.slots, past.clip.replace(**edited), past.extra)

    def edits(self, learner: LearnerView, clip: Clip) -> Mapping[str, Tensor] | None:
        """The directions ``(B, L, P)`` of ``audio`` and ``video``; None where half precision overflowed."""
        backbone, generator = learner.backbone, learner.generators["auxiliary"]
        ahead = virtual_step(learner, learner.batch[: learner.num_current])
        masks = backbone.draw_masks(clip, generator)
        before = self._slopes(learner, {}, clip, masks)
        if not self.share_masks:
            masks = backbone.draw_masks(clip, generator)
        after = self._slopes(learner, ahead, clip, masks)
        if before is None or after is None:
            return None
        weight = self.sign * self.beta
        return {side: (after[side] - before[side]) + weight * before[side] for side in before}

    @staticmethod
    def _slopes(learner: LearnerView, weights: dict[str, Tensor], clip: Clip, masks: Masks) -> dict[str, Tensor] | None:
        """The gradient of the mean loss by every patch of ``clip``, at other ``weights`` where there are any."""
        sides = {"audio": clip.audio.detach().requires_grad_(), "video": clip.video.detach().requires_grad_()}
        loss = functional_call(learner.backbone, weights, (clip.replace(**sides), masks)).loss
        found = gradients(learner, distributed.mean(loss), list(sides.values()))
        if found is None:
            return None
        return {side: slope for side, slope in zip(sides, found, strict=True) if slope is not None}

    def remember(self, learner: LearnerView) -> dict[str, Tensor]:
        """The current clips are as yet unedited."""
        return super().remember(learner) | {"age": torch.zeros(learner.num_current, dtype=torch.long)}


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register GMED."""
    return [GMED]
