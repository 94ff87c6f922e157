"""Calm: what was heard and seen long ago keeps the direction of its embeddings."""

from dataclasses import dataclass

from pydantic import NonNegativeFloat
from torch.nn.functional import cosine_similarity

from avcl import Rehearsal, hookimpl


@dataclass(kw_only=True)
class Calm(Rehearsal):
    """Replay, and a penalty on how far the embeddings of past clips have turned.

    Retrieval looks at directions only: their length is free. ``strength``: weight of the penalty.
    """

    name = "calm"

    strength: NonNegativeFloat = 1.0

    def remember(self, learner):
        """Beside each current clip its embeddings, from before the step."""
        output, fresh = learner.output, learner.num_current
        return {"audio_was": output.audio[:fresh], "video_was": output.video[:fresh]}

    def penalty(self, learner):
        """0 for past clips that point where they did, 2 strength for those turned by 90 degrees."""
        terms = super().penalty(learner)
        if self._past is not None:
            output, was = learner.output, self._past.extra
            audio = cosine_similarity(output.audio[learner.num_current :], was["audio_was"])
            video = cosine_similarity(output.video[learner.num_current :], was["video_was"])
            terms["turn"] = self.strength * (2 - audio - video).mean()
        return terms


@hookimpl
def strategies():
    return [Calm]
