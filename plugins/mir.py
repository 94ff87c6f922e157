"""MIR: maximally interfered retrieval (Aljundi et al., NeurIPS 2019, arXiv 1908.04742).

Replay the past clips whose loss would grow most if the model took the step it is about to take. Of C times
as many candidates as are replayed, with w' the weights after a step on the current clips alone::

    interference_i = loss_i(w') - loss_i(w),    replay the largest

How we differ: as in the STELLA authors' experiments candidates come from the whole memory (there are no
task labels), and current and replayed clips are one joint batch. From both: w' is an exact preview of the
learner's own optimizer (the original takes a step of plain SGD), and the two losses see the same patches;
``share_masks: false`` draws masks anew for each, as the STELLA authors do, whereby the difference drowns in
the noise of the masks. Candidates are each other's negatives in their contrastive loss.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.lookahead import lookahead
from avcl.memory import Past
from avcl.settings import Count
from avcl.strategy import Rehearsal, Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class MIR(Rehearsal):
    """Replay of the past clips that the coming step would harm most.

    ``candidates``: C, how many times as many clips are scored as are replayed · ``share_masks``: score
    before and after the step under the same masks.
    """

    name = "mir"

    candidates: Count = 5
    share_masks: bool = True

    def begin(self, learner: Learner) -> None:
        """Open the memory."""
        super().begin(learner)
        self._seen: dict[str, Tensor] = {}

    def draw(self, learner: Learner) -> Past | None:
        """The candidates that suffer most, in the order in which they were drawn."""
        if not len(self.memory):
            return None
        wanted = self.replay or learner.fresh
        pool = self.memory.sample(self.candidates * wanted)
        harm = self.interference(learner, pool.clip.to(learner.device, learner.dtype))
        worst = harm.topk(min(wanted, len(pool))).indices.sort().values
        return self.memory.read(pool.slots[worst.cpu()]).to(learner.device, learner.dtype)

    def interference(self, learner: Learner, clip: Clip) -> Tensor:
        """How much the loss of each of ``clip`` would grow, (B,)."""
        backbone, generator = learner.backbone, learner.generators["auxiliary"]
        ahead, masks = lookahead(learner, learner.batch), backbone.draw_masks(clip, generator)
        with torch.no_grad():
            before = backbone(clip, masks).loss
            if not self.share_masks:
                masks = backbone.draw_masks(clip, generator)
            harm = functional_call(backbone, ahead, (clip, masks)).loss - before
        self._seen = {"interference": harm.mean(), "interference_spread": harm.std(correction=0)}
        return harm

    def log(self) -> dict[str, float]:
        """Mean and standard deviation of the candidates' interference."""
        return {key: float(value) for key, value in self._seen.items()} | super().log()


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register MIR."""
    return [MIR]
