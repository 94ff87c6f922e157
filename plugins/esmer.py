"""ESMER: error sensitivity modulation based experience replay (Sarfraz et al., ICLR 2023, arXiv 2302.11344).

::

    for each batch x:
        l    = per-clip losses of x as the EMA teacher sees them
        w_i  = 1 if l_i < beta * mu else mu / l_i
        r    = clips drawn from memory;  t_a, t_v = the teacher's embeddings of r
        a, v, L = forward pass over [x; r]
        loss = mean of [w_i L_i(x); L_j(r)] + gamma * (mse(a[r], t_a) + mse(v[r], t_v))
        optimizer step
        offer x to memory, without the clips of l_i > beta * mu
        with probability r: teacher <- EMA of the weights
        mu  <- d mu + (1 - d) mean of l_i over i with l_i <= mean(l) + std_margin * std(l)
        d   = min(1 - 1 / (t + 1), alpha_l) at step t, for the teacher with alpha

How we differ: as in the STELLA authors' experiments there is no warm-up at the start of a task (that would take
task boundaries), and current and replayed clips are one joint forward. From both: teacher and student see the
same patches (``share_masks: false`` draws masks for the teacher, as the authors do). mu starts at 0 and nothing
is weighted or rejected before it has a value; the paper's beta of 1 then rejects about half of a steady
stream, and nearly all of it while losses rise or mu is still low (the authors' file says 2.5, which rejects
almost nothing): watch ``accepted``.

Status: invariants in tests/plugins/test_esmer.py; no golden step of the authors' code. The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from avcl.hookspecs import hookimpl
from avcl.settings import Fraction
from avcl.strategy import Rehearsal, Strategy
from avcl.teacher import Teacher, view
from avcl.training.view import LearnerView
from avcl.utils import distributed


@dataclass(kw_only=True)
class ESMER(Rehearsal):
    """Replay with down-weighted high-loss clips and feature distillation, both from one EMA teacher.

    Args:
        loss_margin: Loss margin: a clip whose loss exceeds so many running means is down-weighted and not stored (β).
        reg_weight: Weight of the distillation loss (γ; paper: 0.15 for VS, 0.2 for AS).
        ema_decay: EMA decay of the teacher (α).
        update_probability: Probability that a step updates the teacher (r).
        loss_ema_decay: EMA decay of the running mean of the teacher's loss (α_l).
        std_margin: Standard deviations above its batch's mean up to which a loss enters the running mean.
        share_masks: Whether teacher and student see the same patches; false as the authors.
    """

    name = "esmer"

    loss_margin: PositiveFloat = 1.0
    reg_weight: NonNegativeFloat = 0.15
    ema_decay: Fraction = 0.999
    update_probability: Fraction = 0.2
    loss_ema_decay: Fraction = 0.99
    std_margin: NonNegativeFloat = 1.0
    share_masks: bool = True

    def begin(self, learner: LearnerView) -> None:
        """Open the memory, make the teacher; the running mean of the loss is unknown."""
        super().begin(learner)
        self.teacher = Teacher(learner.backbone, decay=self.ema_decay, update_probability=self.update_probability)
        self.loss_mean, self.batches = 0.0, 0

    def penalty(self, learner: LearnerView) -> dict[str, Tensor]:
        """Weigh the current clips; gamma times the distance of the replayed ones from the teacher's embeddings."""
        terms = super().penalty(learner)
        self._loss = self.teacher(*view(learner, slice(learner.num_current), self.share_masks)).loss
        learner.weight, self._accepted = self.judge(self._loss)
        rows = self.replayed(learner)
        if self.replays(learner):
            clip, masks = view(learner, rows, self.share_masks)
            terms["distillation"] = self.reg_weight * self.drift(learner, *self.teacher.embed(masks.seen(clip)))
        return terms

    def judge(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of clips of the teacher's ``loss (B,)``, and whether they may enter memory, both (B,)."""
        if not self.loss_mean:
            return torch.ones_like(loss), torch.ones_like(loss, dtype=torch.bool)
        limit = self.loss_margin * self.loss_mean
        return torch.where(loss < limit, 1.0, self.loss_mean / loss), loss <= limit

    def observe(self, learner: LearnerView) -> None:
        """Offer what was accepted to the memory; update teacher and running mean."""
        stored = {key: rows[self._accepted] for key, rows in self.remember(learner).items()}
        self.memory.add(learner.current[self._accepted], **stored)
        self.teacher.update(learner)
        self.follow(distributed.gather(self._loss))
        self._logged["accepted"] = self._accepted.float().mean()
        self._logged["teacher_distance"] = self.teacher.distance(learner)

    def follow(self, loss: Tensor) -> None:
        """Move the running mean towards the mean of this batch's ``loss (B,)``, outliers left out."""
        self.batches += 1
        deviation = loss.std() if len(loss) > 1 else loss.new_zeros(())  # unbiased, as original and adaptation have it
        inliers = loss[loss <= loss.mean() + self.std_margin * deviation]
        decay = min(1 - 1 / (self.batches + 1), self.loss_ema_decay)
        self.loss_mean = decay * self.loss_mean + (1 - decay) * float(inliers.mean())

    def log(self) -> dict[str, float]:
        """The share of clips that may enter memory, the running mean, the teacher's distance from the backbone."""
        return super().log() | {"loss_mean": self.loss_mean}


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register ESMER."""
    return [ESMER]
