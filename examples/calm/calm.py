"""Calm: replay that keeps the direction of embeddings, and leaves their length free."""

from dataclasses import dataclass

from pydantic import NonNegativeFloat
from torch.nn.functional import cosine_similarity

from avcl import Rehearsal, hookimpl


@dataclass(kw_only=True)
class Calm(Rehearsal):
    """Replay with an embedding drift penalty on directions, which are all that retrieval looks at.

    Args:
        weight: Weight of the penalty.
    """

    name = "calm"

    weight: NonNegativeFloat = 1.0

    def remember(self, learner):
        """Store the current clips' embeddings, from before the step, beside them."""
        output, current = learner.output, slice(learner.num_current)
        return {"audio_embedding": output.audio[current], "video_embedding": output.video[current]}

    def penalty(self, learner):
        """0 for replayed clips that point where they did, 2 weight for those turned by 90 degrees."""
        terms = super().penalty(learner)
        if self._past is not None:
            output, stored, rows = learner.output, self._past.extra, self._rows
            audio = cosine_similarity(output.audio[rows], stored["audio_embedding"])
            video = cosine_similarity(output.video[rows], stored["video_embedding"])
            terms["turn"] = self.weight * (2 - audio - video).mean()
        return terms


@hookimpl
def strategies():
    return [Calm]
