"""CLS-ER: complementary learning system experience replay (Arani et al., ICLR 2022, arXiv 2201.12604).

Two slowly moving copies of the model, a plastic one that is updated often and a stable one that is updated
less often. Past clips are replayed, and the copy that is surer of a clip says what its embeddings should be::

    L = L([current; past]) + lambda * (mse(audio, target) + mse(video, target))

How we differ: there are no labels, so the "true class" is the matched pair, as in the STELLA authors'
experiments: the target of the video embedding comes from the stable copy where it finds the clip's video by
its audio with a higher probability, softmax over the replayed clips, than the plastic one, else from the
plastic one; the target of the audio embedding by the opposite search. Current and past clips are one
joint forward. From both: copies and student see the same patches (``share_masks: false`` draws masks for each
copy, as the authors do), and copies follow after the step. The working model is what is evaluated.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from avcl.hookspecs import hookimpl
from avcl.losses import contrastive
from avcl.settings import Fraction, NonNegative, Positive
from avcl.strategy import Rehearsal, Strategy
from avcl.teacher import Teacher, view
from avcl.training.learner import Learner

Embeddings = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class CLSER(Rehearsal):
    """ER, and the surer of two teachers holds the embeddings of past clips.

    ``consistency``: lambda, weight of the penalty · ``stable_decay``, ``plastic_decay``: alpha_S and alpha_P,
    how slowly the copies move · ``stable_share``, ``plastic_share``: r_S and r_P, share of steps after which
    they do · ``temperature``: of the softmax that compares them · ``share_masks``: copies and student see
    the same patches.
    """

    name = "cls-er"

    consistency: NonNegative = 0.1
    stable_decay: Fraction = 0.999
    plastic_decay: Fraction = 0.999
    stable_share: Fraction = 0.6
    plastic_share: Fraction = 0.8
    temperature: Positive = 0.05
    share_masks: bool = True

    def begin(self, learner: Learner) -> None:
        """Open the memory and copy the backbone twice."""
        super().begin(learner)
        self.stable = Teacher(learner.backbone, decay=self.stable_decay, share=self.stable_share)
        self.plastic = Teacher(learner.backbone, decay=self.plastic_decay, share=self.plastic_share)
        self._seen: dict[str, Tensor] = {}

    def penalty(self, learner: Learner) -> dict[str, Tensor]:
        """lambda times the distance of the replayed clips' embeddings from the teachers'."""
        terms = super().penalty(learner)
        if len(learner.batch) > learner.fresh:
            stable, plastic = (self._embed(learner, teacher) for teacher in (self.stable, self.plastic))
            terms["consistency"] = self.consistency * self.drift(learner, *self.choose(stable, plastic))
        return terms

    def choose(self, stable: Embeddings, plastic: Embeddings) -> Embeddings:
        """Row by row the embeddings ``(audio (R, D), video (R, D))`` of the surer teacher; the plastic at a tie."""
        (stable_audio, stable_video), (plastic_audio, plastic_video) = stable, plastic
        by_audio = self._surprise(stable_audio, stable_video) < self._surprise(plastic_audio, plastic_video)
        by_video = self._surprise(stable_video, stable_audio) < self._surprise(plastic_video, plastic_audio)
        self._seen["stable_chosen"] = torch.cat([by_audio, by_video]).float().mean()
        audio = torch.where(by_video[:, None], stable_audio, plastic_audio)
        return audio, torch.where(by_audio[:, None], stable_video, plastic_video)

    def _surprise(self, query: Tensor, key: Tensor) -> Tensor:
        """Minus the log of the probability with which each query (R, D) finds its own key (R, D): (R,)."""
        return contrastive(key, query, self.temperature, both=False)

    def _embed(self, learner: Learner, teacher: Teacher) -> Embeddings:
        clip, masks = view(learner, slice(learner.fresh, None), self.share_masks)
        return teacher.embed(masks.seen(clip))

    def observe(self, learner: Learner) -> None:
        """Remember the current clips; the teachers follow."""
        super().observe(learner)
        for key, teacher in (("stable", self.stable), ("plastic", self.plastic)):
            teacher.update(learner)
            self._seen[f"{key}_distance"] = teacher.distance(learner)

    def log(self) -> dict[str, float]:
        """How often the stable teacher was the surer one, and how far both are from the backbone."""
        return {key: float(value) for key, value in self._seen.items()} | super().log()


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register CLS-ER."""
    return [CLSER]
