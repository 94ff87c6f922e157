"""EMA (mean) teachers: an exponential moving average of a backbone's weights, never trained."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Masks, Output

if TYPE_CHECKING:
    from avcl.training.view import LearnerView


class Teacher(nn.Module):
    """An EMA (mean) teacher of a backbone (A. Tarvainen and H. Valpola, NeurIPS 2017, arXiv 1703.01780).

    Starts as a copy. At the t-th step, with probability ``update_probability``::

        teacher <- d teacher + (1 - d) backbone,   d = min(1 - 1 / (t + 1), decay)

    At probability 1 it is the plain mean of the weights, the first ones included, until 1 - 1 / (t + 1) passes
    ``decay``; from then on their exponential moving average. Make it in a strategy's ``begin`` and keep it as
    an attribute: no gradient reaches it, the optimizer leaves it out, a checkpoint holds it with its ``count``
    of steps.

    Args:
        decay: EMA decay d: the weight of the past at each update.
        update_probability: Probability with which a step updates the teacher.
    """

    count: Tensor

    def __init__(self, backbone: Backbone, *, decay: float, update_probability: float = 1.0):
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(False).eval()
        self.decay, self.update_probability = decay, update_probability
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, clip: Clip, masks: Masks) -> Output:
        """Loss terms and embeddings of ``clip`` under ``masks``, without gradient."""
        return self.backbone(clip, masks)

    @torch.no_grad()
    def embed(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Embeddings ``(audio (B, D), video (B, D))`` of the patches in ``clip``, without gradient."""
        return self.backbone.embed(clip)

    @torch.no_grad()
    def update(self, learner: LearnerView) -> None:
        """Update the EMA after an optimizer step; a batch that only accumulates gradients changes nothing.

        The draw is from the generator ``method``.
        """
        if learner.pending:
            return
        self.count += 1
        if torch.rand((), generator=learner.generators["method"]) >= self.update_probability:
            return
        # computed where the count is: reading it would wait for the GPU
        pull = (1 / (self.count.double() + 1)).clamp(min=1 - self.decay)
        for mine, theirs in zip(self.backbone.parameters(), learner.backbone.parameters(), strict=True):
            mine.lerp_(theirs, pull.to(mine.dtype))
        for kept, current in zip(self.backbone.buffers(), learner.backbone.buffers(), strict=True):
            kept.copy_(current)

    @torch.no_grad()
    def distance(self, learner: LearnerView) -> Tensor:
        """Distance of the teacher from the learner's backbone: the L2 norm of the difference of all weights."""
        pairs = zip(self.backbone.parameters(), learner.backbone.parameters(), strict=True)
        return torch.stack([torch.linalg.vector_norm(mine - theirs) for mine, theirs in pairs]).norm()


def view(learner: LearnerView, rows: slice, shared: bool) -> tuple[Clip, Masks]:
    """The clips ``rows`` of the batch, with the student's masks (``shared``) or with new ones for a teacher."""
    clip = learner.batch[rows]
    if shared:
        return clip, learner.masks[rows]
    return clip, learner.backbone.draw_masks(clip, learner.generators["auxiliary"])
