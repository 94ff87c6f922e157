"""GMED: gradient-based memory editing (Jin et al., NeurIPS 2021, arXiv 2006.15294).

Past clips are edited before they are replayed, and stay so in memory: one step up the gradient of how much
the coming update would harm them. With w' the weights after a step on the current clips alone, g = dl(w)/dx
and g' = dl(w')/dx, both of the mean loss of the drawn clips::

    x <- x + alpha gamma^age [ (g' - g) + s beta g ],    age <- age + 1

How we differ: as in the STELLA authors' experiments spectrogram and frames are both edited, a clip's pixels
are input and target of the reconstruction at once, and s is +1 (as in both published codes; -1 would edit
towards clips whose loss is low now). From both: w' is an exact preview of the learner's own optimizer, g and
g' see the same patches (``share_masks: false``: as the authors), and a clip's age counts its edits and
begins anew when its slot is taken by another. The gradient of a mean over clips and patches is tiny:
``audio_edit`` and ``video_edit`` tell whether the edits are more than rounding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from avcl.clip import Clip, Masks
from avcl.hookspecs import hookimpl
from avcl.lookahead import gradients, lookahead
from avcl.memory import Past
from avcl.settings import Fraction, NonNegative
from avcl.strategy import Rehearsal, Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class GMED(Rehearsal):
    """Replay of past clips that are edited, step by step, towards being harmed most.

    ``stride``: alpha, length of an edit · ``pull``: beta, weight of the gradient before the step; 0.05 for VS,
    0.01 for AS · ``sign``: s, its sign · ``fading``: gamma, by which the stride shrinks with every edit of a
    clip; 1: never · ``share_masks``: both gradients under the same masks.
    """

    name = "gmed"

    stride: NonNegative = 0.1
    pull: NonNegative = 0.05
    sign: Literal[1, -1] = 1
    fading: Fraction = 1.0
    share_masks: bool = True

    def begin(self, learner: Learner) -> None:
        """Open the memory."""
        super().begin(learner)
        self._seen: dict[str, Tensor] = {}

    def draw(self, learner: Learner) -> Past | None:
        """Past clips, edited here and in memory."""
        past = super().draw(learner)
        if past is None:
            return None
        edits = self.edits(learner, past.clip)
        if edits is None:
            return past
        age = past.extra["age"]
        stride = (self.stride * self.fading ** age.to(learner.dtype))[:, None, None]
        stored, edited = getattr(torch, self.memory.dtype), {}
        for side, edit in edits.items():
            clean = getattr(past.clip, side)
            edited[side] = (clean + stride * edit).to(stored).to(clean.dtype)  # rounded as memory rounds it
            self._seen[f"{side}_edit"] = (edited[side] - clean).norm() / clean.norm()
        self.memory.write(past.slots, **edited, age=age + 1)
        return Past(past.slots, Clip(**past.clip.tensors() | edited), past.extra)

    def edits(self, learner: Learner, clip: Clip) -> Mapping[str, Tensor] | None:
        """The directions ``(B, L, P)`` of ``audio`` and ``video``; None where half precision overflowed."""
        backbone, generator = learner.backbone, learner.generators["auxiliary"]
        ahead, masks = lookahead(learner, learner.batch), backbone.draw_masks(clip, generator)
        before = self._slopes(learner, {}, clip, masks)
        if not self.share_masks:
            masks = backbone.draw_masks(clip, generator)
        after = self._slopes(learner, ahead, clip, masks)
        if before is None or after is None:
            return None
        weight = self.sign * self.pull
        return {side: (after[side] - before[side]) + weight * before[side] for side in before}

    @staticmethod
    def _slopes(learner: Learner, weights: dict[str, Tensor], clip: Clip, masks: Masks) -> dict[str, Tensor] | None:
        """The gradient of the mean loss by every patch of ``clip``, at other ``weights`` where there are any."""
        sides = {"audio": clip.audio.detach().requires_grad_(), "video": clip.video.detach().requires_grad_()}
        loss = functional_call(learner.backbone, weights, (Clip(**clip.tensors() | sides), masks)).loss.mean()
        found = gradients(learner, loss, list(sides.values()))
        if found is None:
            return None
        return {side: slope for side, slope in zip(sides, found, strict=True) if slope is not None}

    def remember(self, learner: Learner) -> dict[str, Tensor]:
        """The current clips are as yet unedited."""
        return super().remember(learner) | {"age": torch.zeros(learner.fresh, dtype=torch.long)}

    def log(self) -> dict[str, float]:
        """The norm of the last edits relative to that of the clips."""
        return {key: float(value) for key, value in self._seen.items()} | super().log()


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register GMED."""
    return [GMED]
