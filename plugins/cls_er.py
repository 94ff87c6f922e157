"""CLS-ER: complementary learning system experience replay (Arani et al., ICLR 2022, arXiv 2201.12604).

::

    for each batch x:
        r       = clips drawn from memory
        S, P    = embeddings of r by the stable and the plastic EMA teacher
        t_i     = S_i where S finds the pair i among r with higher probability than P, else P_i
        a, v, L = forward pass over [x; r]
        loss    = mean of L + lambda * (mse(a[r], t_a) + mse(v[r], t_v))
        optimizer step
        with probability r_S: S <- EMA of the weights;  with probability r_P: P <- EMA of the weights
        offer x to memory

How we differ: there are no labels, so the "true class" is the matched pair, as in the STELLA authors'
experiments: the target of the video embedding comes from the stable teacher where it finds the clip's video by
its audio with a higher probability, softmax over the replayed clips, than the plastic one, else from the
plastic one; the target of the audio embedding by the opposite search. Current and replayed clips are one
joint forward. From both: teachers and student see the same patches (``share_masks: false`` draws masks for each
teacher, as the authors do), and teachers follow after the step. The working model is what is evaluated.

Status: invariants in tests/plugins/test_cls_er.py; no golden step of the authors' code. The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from avcl.hookspecs import hookimpl
from avcl.losses import contrastive
from avcl.settings import Fraction
from avcl.strategy import Rehearsal, Strategy
from avcl.teacher import Teacher, view
from avcl.training.view import LearnerView

Embeddings = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class CLSER(Rehearsal):
    """Replay with feature distillation from a stable and a plastic EMA teacher, whichever is more confident.

    Args:
        reg_weight: Weight of the distillation loss (λ).
        stable_ema_decay: EMA decay of the stable teacher (α_S).
        plastic_ema_decay: EMA decay of the plastic teacher (α_P).
        stable_update_probability: Probability that a step updates the stable teacher (r_S).
        plastic_update_probability: Probability that a step updates the plastic teacher (r_P).
        temperature: Temperature of the softmax that compares the teachers (τ).
        share_masks: Whether teachers and student see the same patches; false as the authors.
    """

    name = "cls-er"

    reg_weight: NonNegativeFloat = 0.1
    stable_ema_decay: Fraction = 0.999
    plastic_ema_decay: Fraction = 0.999
    stable_update_probability: Fraction = 0.6
    plastic_update_probability: Fraction = 0.8
    temperature: PositiveFloat = 0.05
    share_masks: bool = True

    def begin(self, learner: LearnerView) -> None:
        """Open the memory and make both teachers, copies of the backbone."""
        super().begin(learner)
        stable, plastic = self.stable_update_probability, self.plastic_update_probability
        self.stable = Teacher(learner.backbone, decay=self.stable_ema_decay, update_probability=stable)
        self.plastic = Teacher(learner.backbone, decay=self.plastic_ema_decay, update_probability=plastic)

    def penalty(self, learner: LearnerView) -> dict[str, Tensor]:
        """lambda times the distance of the replayed clips' embeddings from the teachers'."""
        terms = super().penalty(learner)
        if self.replays(learner):
            stable, plastic = (self._embed(learner, teacher) for teacher in (self.stable, self.plastic))
            terms["distillation"] = self.reg_weight * self.drift(learner, *self.choose(stable, plastic))
        return terms

    def choose(self, stable: Embeddings, plastic: Embeddings) -> Embeddings:
        """Row by row the targets ``(audio (R, D), video (R, D))`` of the better teacher; the plastic at a tie."""
        (stable_audio, stable_video), (plastic_audio, plastic_video) = stable, plastic
        by_audio = self._surprise(stable_audio, stable_video) < self._surprise(plastic_audio, plastic_video)
        by_video = self._surprise(stable_video, stable_audio) < self._surprise(plastic_video, plastic_audio)
        self._logged["stable_chosen"] = torch.cat([by_audio, by_video]).float().mean()
        audio = torch.where(by_video[:, None], stable_audio, plastic_audio)
        return audio, torch.where(by_audio[:, None], stable_video, plastic_video)

    def _surprise(self, query: Tensor, key: Tensor) -> Tensor:
        """Minus the log of the probability with which each query (R, D) finds its own key (R, D): (R,)."""
        return contrastive(key, query, self.temperature, both=False)

    def _embed(self, learner: LearnerView, teacher: Teacher) -> Embeddings:
        clip, masks = view(learner, self.replayed(learner), self.share_masks)
        return teacher.embed(masks.seen(clip))

    def observe(self, learner: LearnerView) -> None:
        """Offer the current clips to the memory; update the teachers."""
        super().observe(learner)
        for key, teacher in (("stable", self.stable), ("plastic", self.plastic)):
            teacher.update(learner)
            self._logged[f"{key}_distance"] = teacher.distance(learner)


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register CLS-ER."""
    return [CLSER]
