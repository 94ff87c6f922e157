"""ESMER: error sensitivity modulation based experience replay (Sarfraz et al., ICLR 2023, arXiv 2302.11344).

A teacher, the slow mean of the model, knows the usual loss mu of a clip. Current clips whose loss, as the teacher
sees it, is far above count less and are kept out of memory; past clips are held to the teacher's embeddings::

    w_i = 1 if l_i < beta mu else mu / l_i,     not remembered if l_i > beta mu
    L   = mean of [w_i L_i(current); L_j(past)] + gamma * (mse(audio, teacher's) + mse(video, teacher's))
    mu <- d mu + (1 - d) mean of l_i over i with l_i <= mean(l) + spread std(l),   d = min(1 - 1 / (t + 1), alpha_l)

How we differ: as in the STELLA authors' experiments there is no warm-up at the start of a task (that would take
task boundaries), and current and past clips are one joint forward. From both: teacher and student see the
same patches (``share_masks: false`` draws masks for the teacher, as the authors do). mu starts at 0 and nothing
is weighted or rejected before it has a value; the paper's beta of 1 then rejects about half of a steady
stream, and nearly all of it while losses rise or mu is still low (the authors' file says 2.5, which rejects
almost nothing): watch ``accepted``. Every process keeps a mu of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from avcl.hookspecs import hookimpl
from avcl.settings import Fraction, NonNegative, Positive
from avcl.strategy import Rehearsal, Strategy
from avcl.teacher import Teacher, view
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class ESMER(Rehearsal):
    """ER that trusts familiar clips more, under one teacher.

    ``margin``: beta, how many times the usual loss is too much · ``consistency``: gamma, weight of the penalty;
    0.15 for VS, 0.2 for AS · ``decay``, ``share``: alpha and r, how slowly the teacher moves and after what
    share of steps · ``loss_decay``: alpha_l, how slowly the usual loss moves · ``spread``: how many standard
    deviations above its batch's mean a loss may be to count for it · ``share_masks``: teacher and student see
    the same patches.
    """

    name = "esmer"

    margin: Positive = 1.0
    consistency: NonNegative = 0.15
    decay: Fraction = 0.999
    share: Fraction = 0.2
    loss_decay: Fraction = 0.99
    spread: NonNegative = 1.0
    share_masks: bool = True

    def begin(self, learner: Learner) -> None:
        """Open the memory, copy the backbone, know nothing of losses."""
        super().begin(learner)
        self.teacher = Teacher(learner.backbone, decay=self.decay, share=self.share)
        self.usual, self.batches = 0.0, 0
        self._seen: dict[str, Tensor] = {}

    def penalty(self, learner: Learner) -> dict[str, Tensor]:
        """Weigh the current clips; gamma times the distance of the replayed ones from the teacher's embeddings."""
        terms = super().penalty(learner)
        current, past = slice(None, learner.fresh), slice(learner.fresh, None)
        self._loss = self.teacher(*view(learner, current, self.share_masks)).loss
        learner.weight, self._accepted = self.judge(self._loss)
        if len(learner.batch) > learner.fresh:
            clip, masks = view(learner, past, self.share_masks)
            terms["consistency"] = self.consistency * self.drift(learner, *self.teacher.embed(masks.seen(clip)))
        return terms

    def judge(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """How much clips of the teacher's ``loss (B,)`` count, and whether they may enter memory, both (B,)."""
        if not self.usual:
            return torch.ones_like(loss), torch.ones_like(loss, dtype=torch.bool)
        limit = self.margin * self.usual
        return torch.where(loss < limit, 1.0, self.usual / loss), loss <= limit

    def observe(self, learner: Learner) -> None:
        """Remember what was accepted; teacher and usual loss follow."""
        if self._accepted.any():
            stored = {key: rows[self._accepted] for key, rows in self.remember(learner).items()}
            self.memory.add(learner.current[self._accepted], **stored)
        self.teacher.update(learner)
        self._follow(self._loss)
        self._seen["accepted"] = self._accepted.float().mean()
        self._seen["teacher_distance"] = self.teacher.distance(learner)

    def _follow(self, loss: Tensor) -> None:
        """Move the usual loss towards the mean of this batch's, outliers left out."""
        self.batches += 1
        ordinary = loss[loss <= loss.mean() + self.spread * loss.std(correction=0)]
        decay = min(1 - 1 / (self.batches + 1), self.loss_decay)
        self.usual = decay * self.usual + (1 - decay) * float(ordinary.mean())

    def log(self) -> dict[str, float]:
        """The share of clips that may enter memory, the usual loss, the teacher's distance from the backbone."""
        shown = {key: float(value) for key, value in self._seen.items()}
        return shown | {"usual_loss": self.usual} | super().log()


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register ESMER."""
    return [ESMER]
