"""MIR: maximally interfered retrieval (Aljundi et al., NeurIPS 2019, arXiv 1908.04742).

::

    for each batch x of B clips:
        c    = C * B candidates drawn from memory
        w'   = weights after a virtual optimizer step on L(x)
        s_i  = L_i(c; w') - L_i(c; w)                      the loss increase
        r    = the B candidates of largest s
        loss = mean of L over [x; r] at w
        optimizer step
        offer x to memory

How we differ: as in the STELLA authors' experiments candidates come from the whole memory (there are no
task labels), and current and replayed clips are one joint batch. From both: w' is an exact preview of the
learner's own optimizer (the original takes a step of plain SGD), and the two losses see the same patches;
``share_masks: false`` draws masks anew for each, as the STELLA authors do, whereby the difference drowns in
the noise of the masks. Candidates are each other's negatives in their contrastive loss.

Status: invariants in tests/plugins/test_mir.py (the preview equals a real Adam step to the last bit).
The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.func import functional_call

from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.lookahead import virtual_step
from avcl.memory import Past
from avcl.strategy import Rehearsal, Strategy
from avcl.training.view import LearnerView
from avcl.utils import distributed


@dataclass(kw_only=True)
class MIR(Rehearsal):
    """Replay of the most interfered clips: those of largest loss increase after a virtual step.

    Args:
        candidates: Candidates scored for each replayed clip (C).
        share_masks: Whether losses before and after the virtual step see the same patches; false as the authors.
    """

    name = "mir"

    candidates: PositiveInt = 5
    share_masks: bool = True

    def draw(self, learner: LearnerView) -> Past | None:
        """The most interfered candidates, in the order in which they were drawn."""
        if not len(self.memory):
            return None
        wanted = self.wanted(learner)
        pool = self.memory.sample(self.candidates * wanted)
        increase = self.interference(learner, pool.clip.to(learner.device, learner.dtype))
        increase, slots = distributed.gather(increase), distributed.gather(pool.slots)
        most = slots[increase.topk(min(wanted, len(slots))).indices.sort().values.cpu()]
        return self.memory.read(most[distributed.share_of(len(most))]).to(learner.device, learner.dtype)

    def interference(self, learner: LearnerView, clip: Clip) -> Tensor:
        """The loss increase of each of ``clip`` after a virtual step on the current clips, (B,)."""
        backbone, generator = learner.backbone, learner.generators["auxiliary"]
        ahead = virtual_step(learner, learner.batch[: learner.num_current])
        masks = backbone.draw_masks(clip, generator)
        with torch.no_grad():
            before = backbone(clip, masks).loss
            if not self.share_masks:
                masks = backbone.draw_masks(clip, generator)
            increase = functional_call(backbone, ahead, (clip, masks)).loss - before
        self._logged = {"interference": increase.mean(), "interference_spread": increase.std(correction=0)}
        return increase


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register MIR."""
    return [MIR]
