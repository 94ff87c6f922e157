"""STELLA: train on the patches where sound and picture meet, except on those that belong to the past.

Lee, Yoon, Kim, Kim, Hwang, *STELLA: Continual Audio-Video Pre-training with SpatioTemporal Localized
Alignment*, ICML 2024, arXiv 2310.08204. For each modality (here video; audio by exchanging the two)::

    for each batch x:
        q, k = queries and keys of the matching module on the fused tokens of x
        I    = mean over heads and audio queries of softmax_video(q_a k_vᵀ / (β √d))         importance
        q̂_v  = Σ_top I q_v / Σ_top I over the κ = ρ N most important patches                  pooled query
        r    = as many clips drawn from memory with their q̂, I, C; the i-th paired with the i-th of x
        C    = mean over heads of softmax over (past, now) of (k_v · q̂_a^past, k_v · q̂_a) / √d, past's share
        F    ~ Bernoulli(C);  I <- 0 where F = 1                                             pruning
        keep κ patches ~ I without replacement; of audio, whole chunks of time (Algorithm 1)
        loss = DER++'s over the kept patches of [x; r] + matching loss (true against shuffled pairs)
        optimizer step
        offer x, whole, to memory with embeddings, q̂, I, C; of r only F is drawn anew

=======================  =================  ====================  ====================  =======================
choice                   paper              authors' code         here, by default      setting
=======================  =================  ====================  ====================  =======================
top κ patches            ascending          descending            descending            -
temperature of C         β                  1                     1                     correlation_temperature
C outside the top κ      not said           0: never pruned       0: never pruned       -
visible patches          20 % of patches    20 % of the grid      20 % of the grid      backbone.visible_of
cut of the last chunk    its tail           by its neighbours     by its neighbours     cut
first step, no past      not said           top κ, no draw        top κ, no draw        -
matching loss            -y log ŷ           full cross-entropy    full cross-entropy    matching_weight
shuffled modality        audio              video, half of pairs  video, half of pairs  -
shuffling                not said           by rejection          a random circle       -
pooling of attention     heads and patches  mixes heads, tokens   head by head          official_pooling
fewer past than current  not said           fails                 paired again          -
what scores patches      matching module    matching module       matching module       scorer
=======================  =================  ====================  ====================  =======================

``scorer: cosine`` needs neither the matching module nor the fusion pass over whole clips; its queries and keys are
tokens of the backbone's encoders, see ``cosine.py``. C is computed without any attention map (``ops/selection.py``);
draws are functions of (seed, use, clip, column) and do not depend on the batch around a clip.

Status: two golden steps of the authors' code, scores, selection, losses, gradients and memory, matched to 1e-6
(tests/plugins/test_stella.py). The paper's numbers: not yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from avcl.backbones.protocol import Backbone
from avcl.backbones.weights import load_state
from avcl.clip import Clip
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.memory import Past
from avcl.plugins.selective import Selective, empty_clip
from avcl.plugins.stella.cosine import centred, closeness
from avcl.plugins.stella.matching import Heads, Matching, partners, renamed
from avcl.plugins.stella.ops import native
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.selection import (
    Along,
    Cut,
    correlation,
    importance,
    leading,
    pooled_query,
    prune,
    sample,
    select_audio,
)
from avcl.selection import Choice, Selection
from avcl.strategy import Strategy
from avcl.training.view import LearnerView
from avcl.utils import distributed


@dataclass(kw_only=True)
class Stella(Selective):
    """Patch selection by localized importance, pruned by replay-guided correlation, in replay too.

    Logged: accuracy of the matching module; of each modality the share of pruned patches and the entropy of the
    kept patches' importance, as a share of its maximum: at 1 selection is blind.

    Args:
        scorer: What scores patches: attention of the matching module on fused tokens, or the cosine similarity of
            tokens that are not fused, which costs less and trains no matching module.
        scorer_blocks: Of the scorer cosine: blocks of each encoder that score; null for all.
        temperature: Temperature of the importance softmax (β; paper: 0.4 for VS, 0.1 for AS).
        correlation_temperature: Temperature of the correlation softmax; the authors use 1.
        select_by: Scores used: importance alone prunes nothing, correlation alone draws uniformly from what was not
            pruned.
        audio_selection: Audio patches in chunks of neighbours in time or frequency, or unconstrained, one by one.
        chunk: Neighbours in a chunk (L_c): a share of the axis (paper: a sixteenth), or a number of patches.
        cut: Where the last chunk is cut: neighbours as the authors' code, tail as printed.
        matching_weight: Weight of the matching loss.
        heads: Attention heads of the matching module; must divide the backbone's width.
        official_pooling: Whether attended values are pooled as the authors' code does, mixing heads and tokens.
    """

    name = "stella"

    scorer: Literal["matching", "cosine"] = "matching"
    scorer_blocks: PositiveInt | None = None
    temperature: PositiveFloat = 0.4
    correlation_temperature: PositiveFloat = 1.0
    select_by: Literal["both", "importance", "correlation"] = "both"
    audio_selection: Along = "time"
    chunk: PositiveInt | Annotated[float, Field(gt=0, lt=1)] = 1 / 16
    cut: Cut = "neighbours"
    matching_weight: NonNegativeFloat = 1.0
    heads: PositiveInt = 12
    official_pooling: bool = False

    def begin(self, learner: LearnerView) -> None:
        """Make the matching module, if it scores, from the run's initial weights where they have one."""
        super().begin(learner)
        self.freqs, self.patches = learner.backbone.grid.freqs, in_patches(self.chunk, self.axis(learner))
        if self.scorer == "cosine":
            return
        self.matching = Matching(learner.backbone.dim, self.heads, self.official_pooling)
        if given := learner.initial_state(self.name, "matching"):
            load_state(self.matching, renamed(given), f"{self.name}: initial weights")

    def prepare(self, learner: LearnerView) -> None:
        """Score the current clips, draw stored ones, keep the chosen patches of both."""
        self._seed = int(torch.randint(2**63 - 1, (), generator=learner.generators["method"]))
        self._past = self.draw(learner)
        whole = self.whole(learner)
        self._scores = self.score(learner, whole)
        self.put(learner, self.compose(whole, *self.budget(learner)))

    def penalty(self, learner: LearnerView) -> dict[str, Tensor]:
        """The matching module's loss, if there is one, beside the drift of the replayed clips."""
        terms = super().penalty(learner)
        return terms if self.scorer == "cosine" else terms | {"matching": self.matching_weight * self._matching_loss}

    def remember(self, learner: LearnerView) -> dict[str, Tensor]:
        """The current clips' embeddings and scores, from before the step."""
        return super().remember(learner) | self._scores

    def score(self, learner: LearnerView, clip: Clip) -> dict[str, Tensor]:
        """Importance and correlation (B, L) and pooled queries (B, H, d) of whole current clips, by modality.

        The matching module's loss is computed on the way; no gradient of it reaches the backbone.
        """
        if self.scorer == "cosine":
            return self.scores(*self.unfused(learner.backbone, clip), self._past)
        with torch.no_grad():
            encoded = learner.backbone.encode(clip)
            fused = learner.backbone.fuse(*encoded)
            audio, video = self.matching.split(*fused)
        self._matching_loss = self._match(learner, encoded, fused)
        return self.scores(audio, video, self._past)

    @torch.no_grad()
    def unfused(self, backbone: Backbone, clip: Clip) -> tuple[Heads, Heads]:
        """Queries and keys of the scorer ``cosine``."""
        blocks = self.scorer_blocks
        return centred(*(backbone.encode(clip) if blocks is None else backbone.encode_first(clip, blocks)))

    def importance(self, query: Tensor, key: Tensor) -> Tensor:
        """Importance (B, L) of patches with these keys, by the other modality's queries."""
        if self.scorer == "cosine":
            return closeness(query, key, self.temperature)
        return importance(query, key, self.matching.scale, self.temperature)

    def scores(self, audio: Heads, video: Heads, past: Past | None) -> dict[str, Tensor]:
        """The scores of clips with these queries and keys; the i-th is paired with the i-th of the ``past``."""
        scale = 1.0 if self.scorer == "cosine" else self.matching.scale
        audio_importance = self.importance(video.query, audio.key)
        video_importance = self.importance(audio.query, video.key)
        top_audio = leading(audio_importance, self.audio_kept)
        top_video = leading(video_importance, self.video_kept)
        audio_query = pooled_query(audio.query, audio_importance, top_audio)
        video_query = pooled_query(video.query, video_importance, top_video)
        if past is None or self.select_by == "importance":
            audio_correlation = torch.zeros_like(audio_importance)
            video_correlation = torch.zeros_like(video_importance)
        else:
            heat = self.correlation_temperature
            queries = {key: past.extra[key] for key in ("audio_query", "video_query")}
            past_audio, past_video = distributed.paired(queries, len(audio.query)).values()
            audio_correlation = correlation(audio.key, past_video, video_query, top_audio, scale, heat)
            video_correlation = correlation(video.key, past_audio, audio_query, top_video, scale, heat)
        if self.select_by == "correlation":
            audio_importance = torch.full_like(audio_importance, 1 / audio_importance.shape[1])
            video_importance = torch.full_like(video_importance, 1 / video_importance.shape[1])
        return {
            "audio_importance": audio_importance,
            "video_importance": video_importance,
            "audio_query": audio_query,
            "video_query": video_query,
            "audio_correlation": audio_correlation,
            "video_correlation": video_correlation,
        }

    def compose(self, clip: Clip, audio_kept: int, video_kept: int) -> Clip:
        """The selected patches of whole current clips and of whole replayed ones, selected now by their scores."""
        if self._past is None:
            return self.select(clip, self._scores, audio_kept, video_kept)
        both = {key: torch.cat([value, self._past.extra[key]]) for key, value in self._scores.items()}
        return self.select(clip + self._past.clip, both, audio_kept, video_kept)

    def select(self, clip: Clip, scores: Mapping[str, Tensor], audio_kept: int, video_kept: int) -> Clip:
        """The patches of ``clip`` to train on: without a past the most important ones, else those drawn."""
        drawn = self._past is not None or self.select_by == "correlation"
        video, audio = self.pick(scores, clip.index, audio_kept, video_kept, self._seed if drawn else None)
        if audio.pruned is not None and video.pruned is not None:
            self._logged["audio_pruned"] = audio.pruned.float().mean()
            self._logged["video_pruned"] = video.pruned.float().mean()
        self._logged["audio_entropy"] = _entropy(audio.importance.gather(1, audio.kept))
        self._logged["video_entropy"] = _entropy(video.importance.gather(1, video.kept))
        return clip.take(video.kept, audio.kept)

    def pick(
        self, scores: Mapping[str, Tensor], index: Tensor, audio_kept: int, video_kept: int, seed: int | None
    ) -> Selection:
        """The patches of the clips ``index (B,)`` by their scores: drawn from ``seed``, the best ones without it."""
        audio_importance, video_importance = scores["audio_importance"], scores["video_importance"]
        if seed is None:
            return Selection(
                video=Choice(video_importance, leading(video_importance, video_kept)),
                audio=Choice(audio_importance, leading(audio_importance, audio_kept)),
            )
        audio_correlation, video_correlation = scores["audio_correlation"], scores["video_correlation"]
        audio_pruned = prune(audio_correlation, seed=seed, use=Use.PRUNE_AUDIO, index=index)
        video_pruned = prune(video_correlation, seed=seed, use=Use.PRUNE_VIDEO, index=index)
        audio = select_audio(
            audio_importance,
            audio_pruned,
            audio_kept,
            freqs=self.freqs,
            chunk=self.patches,
            along=self.audio_selection,
            cut=self.cut,
            seed=seed,
            index=index,
        )
        video = sample(video_importance, video_pruned, video_kept, seed=seed, use=Use.VIDEO, index=index)
        return Selection(
            video=Choice(video_importance, video, video_correlation, video_pruned),
            audio=Choice(audio_importance, audio, audio_correlation, audio_pruned),
        )

    @torch.no_grad()
    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection:
        """A draw as in training, beside clips drawn from the memory where it holds some."""
        past, audio = None, clip.audio
        if held := len(self.memory):
            slots = torch.randperm(held, generator=generator)[: len(clip)]
            past = self.memory.read(slots).to(audio.device, audio.dtype)
        cosine = self.scorer == "cosine"
        heads = self.unfused(backbone, clip) if cosine else self.matching.split(*backbone.tokens(clip))
        scores = self.scores(*heads, past)
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        return self.pick(scores, clip.index, self.audio_kept, self.video_kept, seed)

    def _match(self, learner: LearnerView, encoded: tuple[Tensor, Tensor], fused: tuple[Tensor, Tensor]) -> Tensor:
        """Matching loss: cross-entropy of true against shuffled pairs; only the latter are fused anew."""
        (audio, video), (fused_audio, fused_video) = encoded, fused
        mine = distributed.place(len(audio))
        partner = partners(mine.total, learner.generators["method"])[mine.start :][: len(audio)]
        own = partner == mine.start + torch.arange(len(audio))
        if mine.total > 2:
            wrong = (~own).nonzero().squeeze(1)
            others = distributed.rows_at({"video": video}, partner[wrong])["video"]
            wrong = wrong.to(audio.device)
            with torch.no_grad():
                wrong_audio, wrong_video = learner.backbone.fuse(audio[wrong], others)
            fused_audio = fused_audio.index_copy(0, wrong, wrong_audio)
            fused_video = fused_video.index_copy(0, wrong, wrong_video)
        logits, own = self.matching(fused_audio, fused_video), own.to(audio.device)
        self._logged["matching_accuracy"] = ((logits > 0) == own).float().mean()
        return distributed.balanced(binary_cross_entropy_with_logits(logits, own.to(logits.dtype)), len(audio))

    def axis(self, learner: LearnerView) -> int:
        """Patches of the axis along which audio is chunked."""
        grid = learner.backbone.grid
        return grid.freqs if self.audio_selection == "frequency" else grid.times

    def mistakes(self) -> Iterator[str]:
        """Blocks of a scorer that has none to choose."""
        yield from super().mistakes()
        if self.scorer == "matching" and self.scorer_blocks is not None:
            yield f"scorer_blocks: invalid value {self.scorer_blocks}: must be null for the scorer matching"

    def misfits(self, learner: LearnerView) -> Iterator[str]:
        """Settings that do not fit the backbone, one line each."""
        dim = learner.backbone.dim
        if self.scorer == "matching" and dim % self.heads:
            yield f"heads: {self.heads} does not divide the backbone's width {dim}; choose a divisor"
        axis = self.axis(learner)
        if isinstance(self.chunk, int) and axis % self.chunk and self.audio_selection != "unconstrained":
            yield f"chunk: {self.chunk} does not divide the {axis} patches of {self.audio_selection}; choose a divisor"
        if self.scorer_blocks is not None:
            try:
                learner.backbone.encode_first(empty_clip(learner.backbone), self.scorer_blocks)
            except UserError as error:
                yield f"scorer_blocks: invalid value {self.scorer_blocks}: {error}"
        yield from super().misfits(learner)


def in_patches(chunk: int | float, axis: int) -> int:
    """The patches of a ``chunk``; of a share, the most that divide the ``axis`` and do not exceed it, but one."""
    if isinstance(chunk, int):
        return chunk
    return next(patches for patches in range(max(1, int(axis * chunk)), 0, -1) if axis % patches == 0)


def _entropy(weights: Tensor) -> Tensor:
    """The entropy of ``weights (B, K)`` as a share of its maximum, averaged over clips."""
    share = weights / weights.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1).mean() / math.log(weights.shape[1])


@hookimpl
def strategies() -> Iterable[type[Strategy]]:
    """Register STELLA."""
    return [Stella]


@hookimpl
def doctor() -> Iterable[tuple[str, str]]:
    """Say which form of the ops runs."""
    return native.lines()


@hookimpl
def benches() -> Iterable[tuple[str, Callable[[Sequence[str]], None]]]:
    """`avcl bench selection`: the ops, beside what one would write in PyTorch."""
    from avcl.plugins.stella.ops.bench import main

    return [("selection", main)]
