"""DER++: dark experience replay (Buzzega et al., NeurIPS 2020, arXiv 2004.07211).

::

    for each batch x:
        r, h_a, h_v = clips drawn from memory, and their embeddings when they were stored
        a, v, L     = forward pass over [x; r]
        loss        = mean of L + alpha * (mse(a[r], h_a) + mse(v[r], h_v))
        optimizer step
        offer x to memory with a[x], v[x]

How we differ: "logits" are the pooled, un-normalised embeddings of each modality, and one draw from memory
serves replay and penalty in one joint forward, both as in the STELLA authors' experiments. The original
draws twice and takes three forward passes.

Status: invariants in tests/plugins/test_derpp.py; its penalty is part of the authors' golden STELLA steps, matched
to 1e-6. The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import NonNegativeFloat
from torch import Tensor

from avcl.hookspecs import hookimpl
from avcl.strategy import Rehearsal, Strategy
from avcl.training.view import LearnerView


@dataclass(kw_only=True)
class DERpp(Rehearsal):
    """Replay with an embedding drift penalty: distillation from the model as it was when a clip was stored.

    Args:
        alpha: Weight of the embedding drift penalty (α; paper: 0.5 for VS, 1.0 for AS).
    """

    name = "derpp"

    alpha: NonNegativeFloat = 0.5

    def penalty(self, learner: LearnerView) -> dict[str, Tensor]:
        """alpha times the drift of the replayed clips; nothing while there are none."""
        terms = super().penalty(learner)
        if self._past is not None:
            stored = self._past.extra
            terms["drift"] = self.alpha * self.drift(learner, stored["audio_embedding"], stored["video_embedding"])
        return terms

    def remember(self, learner: LearnerView) -> dict[str, Tensor]:
        """The current clips' embeddings from before the step."""
        output, current = learner.output, slice(learner.num_current)
        return {"audio_embedding": output.audio[current], "video_embedding": output.video[current]}


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register DER++."""
    return [DERpp]
