"""DER++: dark experience replay (Buzzega et al., NeurIPS 2020, arXiv 2004.07211).

Past clips are replayed, and their embeddings are held to those recorded when they were stored:

    L = L([current; past]) + alpha * (mse(audio, stored audio) + mse(video, stored video))

How we differ: "logits" are the pooled, un-normalised embeddings of each modality, and one draw from memory
serves replay and penalty in one joint forward, both as in the STELLA authors' experiments. The original
draws twice and takes three forward passes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from avcl.hookspecs import hookimpl
from avcl.settings import NonNegative
from avcl.strategy import Rehearsal, Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class DERpp(Rehearsal):
    """ER and a penalty on the drift of past embeddings; the paper takes alpha 0.5 (VS) and 1.0 (AS)."""

    name = "derpp"
    alpha: NonNegative = 0.5

    def penalty(self, learner: Learner) -> dict[str, Tensor]:
        """alpha times the drift of the replayed clips; nothing while there are none."""
        terms = super().penalty(learner)
        if self._past is not None:
            stored = self._past.extra
            terms["drift"] = self.alpha * self.drift(learner, stored["audio_embedding"], stored["video_embedding"])
        return terms

    def remember(self, learner: Learner) -> dict[str, Tensor]:
        """The current clips' embeddings from before the step."""
        output = learner.output
        return {
            "audio_embedding": output.audio[: learner.fresh],
            "video_embedding": output.video[: learner.fresh],
        }


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register DER++."""
    return [DERpp]
