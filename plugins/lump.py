"""LUMP: lifelong unsupervised mixup (Madaan et al., ICLR 2022, arXiv 2110.06976).

::

    for each batch x:
        r      = as many clips drawn from memory
        lambda ~ Beta(alpha, alpha), one for the whole batch
        x'     = lambda x + (1 - lambda) r, frames and spectrogram alike
        loss   = mean of L(x')
        optimizer step
        offer x, unmixed, to memory

How we differ: the loss is the backbone's own, on mixed pixels as input and target; the original contrasts two
augmented views. Where memory holds fewer clips than the batch they are paired again from the first on. With the
paper's alpha of 0.1 three of four batches are all but unmixed, with lambda below 0.05 or above 0.95.

Status: invariants in tests/plugins/test_lump.py; no golden step of the authors' code. The paper's numbers: not yet.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import PositiveFloat

from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.strategy import Rehearsal, Strategy
from avcl.training.view import LearnerView
from avcl.utils import distributed


@dataclass(kw_only=True)
class LUMP(Rehearsal):
    """Mixup of current and replayed clips.

    Args:
        alpha: Concentration of the Beta distribution of mixing ratios (α; λ in STELLA's Table 5: 0.1 for VS, 0.05
            for AS).
    """

    name = "lump"

    alpha: PositiveFloat = 0.1

    def mistakes(self) -> Iterator[str]:
        """What replay beside the batch would need."""
        if self.contrastive_scope != "joint":
            yield "contrastive_scope: invalid value 'split': must be 'joint', as mixed clips are one batch"
        if self.replay is not None:
            yield f"replay: invalid value {self.replay}: must be null, as each clip is mixed with one"

    def prepare(self, learner: LearnerView) -> None:
        """Mix the current clips with as many stored ones."""
        self._past, self._rows = self.draw(learner), slice(0, 0)
        if self._past is not None:
            current, others = learner.batch[: learner.num_current], learner.batch[learner.num_current :]
            past = Clip.of(distributed.paired(self._past.clip.tensors(), learner.num_current))
            if current.video.shape[1] < past.video.shape[1] or current.audio.shape[1] < past.audio.shape[1]:
                past = past.take(current.video_at, current.audio_at)  # what another strategy left of the current ones
            self._logged["lambda"] = share = self.share(learner)
            mixed = mix(current, past, share)
            learner.batch = mixed + others if len(learner.batch.parts) > 1 else mixed

    def share(self, learner: LearnerView) -> float:
        """lambda, the share of the current clips."""
        seed = int(torch.randint(2**63 - 1, (), generator=learner.generators["method"]))
        return np.random.default_rng(seed).beta(self.alpha, self.alpha)


def mix(clip: Clip, past: Clip, share: float) -> Clip:
    """``share`` of every number of ``clip`` and the rest of ``past``'s, both of the same patches."""
    sides = {side: share * getattr(clip, side) + (1 - share) * getattr(past, side) for side in ("audio", "video")}
    return clip.replace(**sides)


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register LUMP."""
    return [LUMP]
