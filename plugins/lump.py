"""LUMP: lifelong unsupervised mixup (Madaan et al., ICLR 2022, arXiv 2110.06976).

No replay beside the batch: every current clip is mixed with a past one, frames and spectrogram alike::

    x~ = lambda x + (1 - lambda) x_past,    lambda ~ Beta(alpha, alpha), one for the whole batch
    L  = L(x~)

How we differ: the loss is the backbone's own, on mixed pixels as input and target; the original contrasts two
augmented views. Memory keeps the clips unmixed. Where it holds fewer clips than the batch they are
paired again from the first on. With the paper's alpha of 0.1 three of four batches are all but unmixed, with
lambda below 0.05 or above 0.95.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.settings import Positive
from avcl.strategy import Rehearsal, Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class LUMP(Rehearsal):
    """Training on mixtures of current and past clips.

    ``concentration``: alpha of the Beta distribution (the STELLA paper's lambda); 0.1 for VS, 0.05 for AS.
    """

    name = "lump"

    concentration: Positive = 0.1

    def mistakes(self) -> Iterator[str]:
        """What replay beside the batch would need."""
        if self.contrastive_scope != "joint":
            yield "contrastive_scope: 'split' is not allowed: mixed clips are one batch; leave it out"
        if self.replay is not None:
            yield f"replay: {self.replay} is not allowed: every clip is mixed with one past clip; leave it out"

    def begin(self, learner: Learner) -> None:
        """Open the memory."""
        super().begin(learner)
        self._seen: dict[str, float] = {}

    def prepare(self, learner: Learner) -> None:
        """Mix the batch with as many past clips."""
        self._past = self.draw(learner)
        if self._past is not None:
            pairs = torch.arange(learner.fresh) % len(self._past)
            self._seen["lambda"] = share = self.share(learner)
            learner.batch = mix(learner.batch, self._past.clip[pairs], share)

    def share(self, learner: Learner) -> float:
        """lambda, the share of the current clips."""
        seed = int(torch.randint(2**63 - 1, (), generator=learner.generators["method"]))
        return np.random.default_rng(seed).beta(self.concentration, self.concentration)

    def log(self) -> dict[str, float]:
        """The last lambda."""
        return self._seen | super().log()


def mix(clip: Clip, past: Clip, share: float) -> Clip:
    """``share`` of every number of ``clip`` and the rest of ``past``'s, both of all patches."""
    sides = {side: share * getattr(clip, side) + (1 - share) * getattr(past, side) for side in ("audio", "video")}
    return Clip(**clip.tensors() | sides)


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register LUMP."""
    return [LUMP]
