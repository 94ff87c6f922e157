"""Virtual steps: the backbone's parameters after the next optimizer step, without taking it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from avcl.clip import Clip
from avcl.utils import distributed

if TYPE_CHECKING:
    from avcl.training.view import LearnerView


def virtual_step(learner: LearnerView, clip: Clip) -> dict[str, Tensor]:
    """The backbone's parameters, by name, after a virtual step on the mean loss of ``clip`` alone.

    For ``torch.func.functional_call(learner.backbone, virtual_step(learner, clip), (clip, masks))``. A copy of
    the optimizer takes the step on copies of the weights: whatever optimizer it is, with its moments, its
    learning rate and weight decay of each group, the result is the real step's to the last bit, and neither
    weights, nor gradients, nor the optimizer's state are touched. Gradients are clipped as the learner
    clips them. They are those of all processes, without those that wait from earlier batches.

    Where half precision overflows, the learner leaves the step out: the result is empty, which means
    unchanged weights.
    """
    backbone, optimizer = learner.backbone, learner.update.optimizer
    masks = backbone.draw_masks(clip, learner.generators["auxiliary"])
    names = {parameter: name for name, parameter in backbone.named_parameters()}
    trained = [p for group in optimizer.param_groups for p in group["params"] if p in names and p.requires_grad]
    found = gradients(learner, distributed.mean(backbone(clip, masks).loss), trained)
    if found is None:
        return {}
    found = distributed.total(found)
    copies: dict[int, nn.Parameter] = {}
    twin = copy.deepcopy(optimizer, copies)
    for parameter, gradient in zip(trained, found, strict=True):
        copies[id(parameter)].grad = gradient
    if learner.update.clip_norm is not None:
        nn.utils.clip_grad_norm_([copies[id(parameter)] for parameter in trained], learner.update.clip_norm)
    twin.step()
    return {names[parameter]: copies[id(parameter)].detach() for parameter in trained}


def gradients(learner: LearnerView, loss: Tensor, of: Sequence[Tensor]) -> list[Tensor | None] | None:
    """Gradients of ``loss`` with respect to each tensor (None for an unused one); no ``.grad`` changes.

    ``loss``: this process's part of a mean. Of what all processes have, such as weights, the gradients are parts of a
    sum over them; of its own clips they are whole.

    In fp16 the loss is scaled on the way, as the learner's own is. None where that overflowed.
    """
    scaler = learner.update.scaler
    scaled = scaler.scale(loss / distributed.world_size() if distributed.spread() else loss)
    found: list[Tensor | None] = list(torch.autograd.grad(scaled, of, allow_unused=True))
    if not scaler.is_enabled():
        return found
    found = [None if gradient is None else gradient / scaler.get_scale() for gradient in found]
    finite = all(bool(gradient.isfinite().all()) for gradient in found if gradient is not None)
    return None if any(distributed.any_of(not finite)) else found
