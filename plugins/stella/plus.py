"""STELLA+: STELLA that remembers only the patches it chose, and therefore more clips in the same memory.

Lee et al., ICML 2024, arXiv 2310.08204::

    for each batch x:
        scores and selection of x as in STELLA, against the pooled queries of r
        r    = clips drawn from memory: selected patches, as they were stored
        loss = DER++'s over [selected patches of x; r] + matching loss
        optimizer step
        offer the selected patches of x to memory with embeddings and q̂

With S bytes of a whole clip's audio and video, and κ of N patches kept of each, a memory of K clips makes room for::

    K+ = floor(K (S_audio + S_video) / (κ_audio / N_audio S_audio + κ_video / N_video S_video))

twice as many at ρ = 0.5 for both. This counts patches alone, as the paper does; with embeddings, queries and
positions beside them a full memory is 0.6 % larger than one of DER++ (at the paper's sizes).
``memory.budget_bytes`` counts everything. STELLA++ is STELLA+ with 1.66 times the batch, see
``examples/stella_plus_plus.yaml``.

How we differ: the authors' code of STELLA+ cannot be run as published (it imports classes that no version of it
has). It pairs present scores with queries of another order; here correlation is STELLA's own.

Status: invariants in tests/plugins/test_stella_plus.py; no golden step, as the authors' code cannot
be run. The paper's numbers: not yet.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.plugins.stella import Stella
from avcl.strategy import Strategy
from avcl.training.view import LearnerView

STORED = ("audio_embedding", "video_embedding", "audio_query", "video_query")


@dataclass(kw_only=True)
class StellaPlus(Stella):
    """STELLA with a replay buffer of selected patches: more clips in as many bytes, replayed as they were stored.

    ``memory.capacity`` counts whole clips: as many selected ones are held as fit into their place.
    """

    name = "stella-plus"

    def begin(self, learner: LearnerView) -> None:
        """Make room for K+ clips."""
        super().begin(learner)
        grid, colours = learner.backbone.grid, 3
        whole, kept = grid.audio + colours * grid.video, self.audio_kept + colours * self.video_kept
        self.memory.open(learner.generators["memory"], self.memory.capacity * whole // kept)

    def compose(self, clip: Clip, audio_kept: int, video_kept: int) -> Clip:
        """The selected patches of whole current clips, and replayed clips as they are."""
        self._chosen = self.select(clip, self._scores, audio_kept, video_kept)
        return self._chosen if self._past is None else self._chosen + self._past.clip

    def observe(self, learner: LearnerView) -> None:
        """Offer the chosen patches to the memory, with embeddings and pooled queries."""
        beside = self.remember(learner)
        self.memory.add(self._chosen, **{key: beside[key] for key in STORED})


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register STELLA+."""
    return [StellaPlus]
