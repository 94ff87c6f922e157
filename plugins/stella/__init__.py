"""STELLA: train on the patches where sound and picture meet, except on those that belong to the past.

Lee, Yoon, Kim, Kim, Hwang, *STELLA: Continual Audio-Video Pre-training with SpatioTemporal Localized
Alignment*, ICML 2024, arXiv 2310.08204. For each modality (here video; audio by exchanging the two)::

    importance     I = mean over heads and audio queries of softmax_video(q_a k_vᵀ / (β √d))
    pooled query   q̂_v = Σ_top I q_v / Σ_top I, over the κ = ρ N most important patches
    correlation    C = mean over heads of softmax over (past, now) of (k_v · q̂_a^past, k_v · q̂_a) / √d, past's share
    pruning        F ~ Bernoulli(C); I ← 0 where F = 1
    selection      κ patches ~ I without replacement; of audio, whole chunks of time (Algorithm 1)
    loss           L([current; past], selected patches) + matching + α (mse(audio, stored) + mse(video, stored))

q and k are those of a matching module that is trained beside the backbone to tell true pairs of audio and
video from shuffled ones. The past are as many clips from a reservoir memory, the i-th paired with the i-th
current one; their I and C are those of the step when they were stored, their F is drawn anew.

How we differ, from the paper where its authors' code does too: patches are ranked from the most important
down; C has a temperature of its own, 1, and is 0 (never pruned) outside the top κ; as many patches stay
visible as without selection (the backbone's ``visible_of`` changes that); the matching loss is the full binary
cross-entropy over half true, half shuffled pairs, and video is what is shuffled; the first step, which
has no past, takes the top κ of both modalities without a draw; the chunk of audio that would be too much is
cut on the side away from what was taken before it (``cut="tail"``: as printed).

How we differ from both: attended values are pooled head by head (``official_pooling`` reproduces the code,
which mixes heads and tokens); shuffled pairs come from a random circle instead of by rejection, and only they
are fused a second time; with fewer past than current clips, past ones are paired again from the first on;
C is computed without any attention map (see ``selection.correlation``); draws are functions of
(seed, use, clip, column) and do not depend on the batch around a clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from avcl.backbones.weights import load_state
from avcl.clip import Clip
from avcl.hookspecs import hookimpl
from avcl.plugins.selective import Selective
from avcl.plugins.stella.matching import Matching, partners, renamed
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
from avcl.settings import Count, NonNegative, Positive
from avcl.strategy import Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class Stella(Selective):
    """Localized patch importance and replay-guided correlation choose what to train on, now and in replay.

    ``alpha``: weight of the penalty on drift · ``temperature``: β of the importance; 0.4 for VS, 0.1 for AS ·
    ``correlation_temperature``: the same of the correlation · ``keep_video``, ``keep_audio``: ρ, the share of
    patches that are kept; it must exceed the share that the backbone sees · ``select_by``: ``importance``
    alone prunes nothing, ``correlation`` alone draws uniformly from what was not pruned · ``audio_selection``:
    patches of audio in chunks of neighbours in ``time`` or ``frequency``, or one by one · ``chunk``: how many
    neighbours · ``cut``: where the last chunk is cut · ``matching_weight``, ``heads``, ``official_pooling``:
    of the matching module; heads must divide the backbone's width.

    Its log: accuracy of the matching module; of each modality the share of patches that were pruned and the
    entropy of the kept patches' importance, of which 1 is the most: then selection is blind.
    """

    name = "stella"

    temperature: Positive = 0.4
    correlation_temperature: Positive = 1.0
    select_by: Literal["both", "importance", "correlation"] = "both"
    audio_selection: Along = "time"
    chunk: Count = 4
    cut: Cut = "neighbours"
    matching_weight: NonNegative = 1.0
    heads: Count = 12
    official_pooling: bool = False

    def begin(self, learner: Learner) -> None:
        """Make the matching module, from the learner's initial weights where there are any."""
        super().begin(learner)
        self.freqs = learner.backbone.grid.freqs
        self.matching = Matching(learner.backbone.dim, self.heads, self.official_pooling)
        own = "matching."
        given = {key.removeprefix(own): value for key, value in learner.initial.items() if key.startswith(own)}
        if given:
            load_state(self.matching, renamed(given), f"{self.name}: initial weights")

    def prepare(self, learner: Learner) -> None:
        """Score the current clips, draw past ones, keep the chosen patches of both."""
        self._seed = int(torch.randint(2**63 - 1, (), generator=learner.generators["method"]))
        self._past = self.draw(learner)
        self._scores = self.score(learner)
        learner.batch = self.compose(learner)

    def penalty(self, learner: Learner) -> dict[str, Tensor]:
        """The matching module's loss, beside the drift of the replayed clips."""
        return super().penalty(learner) | {"matching": self.matching_weight * self._matching_loss}

    def remember(self, learner: Learner) -> dict[str, Tensor]:
        """The current clips' embeddings and scores, from before the step."""
        return super().remember(learner) | self._scores

    def score(self, learner: Learner) -> dict[str, Tensor]:
        """Importance and correlation (B, L) and pooled queries (B, H, d) of the current clips, by modality.

        The matching module's loss is computed on the way; no gradient of it reaches the backbone.
        """
        with torch.no_grad():
            encoded = learner.backbone.encode(learner.batch)
            fused = learner.backbone.fuse(*encoded)
            audio, video = self.matching.split(*fused)
        self._matching_loss = self._match(learner, encoded, fused)
        scale = self.matching.scale
        audio_importance = importance(video.query, audio.key, scale, self.temperature)
        video_importance = importance(audio.query, video.key, scale, self.temperature)
        top_audio = leading(audio_importance, self.audio_kept)
        top_video = leading(video_importance, self.video_kept)
        audio_query = pooled_query(audio.query, audio_importance, top_audio)
        video_query = pooled_query(video.query, video_importance, top_video)
        if self._past is None or self.select_by == "importance":
            audio_correlation = torch.zeros_like(audio_importance)
            video_correlation = torch.zeros_like(video_importance)
        else:
            past, heat = self._past.extra, self.correlation_temperature
            pair = torch.arange(learner.fresh, device=learner.device) % len(self._past)
            past_audio, past_video = past["audio_query"][pair], past["video_query"][pair]
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

    def compose(self, learner: Learner) -> Clip:
        """The batch: patches of whole current and whole past clips, chosen now by their scores."""
        if self._past is None:
            return self.select(learner.batch, self._scores)
        both = {key: torch.cat([value, self._past.extra[key]]) for key, value in self._scores.items()}
        return self.select(learner.batch + self._past.clip, both)

    def select(self, clip: Clip, scores: Mapping[str, Tensor]) -> Clip:
        """The patches of ``clip`` to train on: without a past the most important ones, else those drawn."""
        audio_importance, video_importance = scores["audio_importance"], scores["video_importance"]
        if self._past is None and self.select_by != "correlation":
            audio = leading(audio_importance, self.audio_kept)
            video = leading(video_importance, self.video_kept)
        else:
            seed, index = self._seed, clip.index
            audio_pruned = prune(scores["audio_correlation"], seed=seed, use=Use.PRUNE_AUDIO, index=index)
            video_pruned = prune(scores["video_correlation"], seed=seed, use=Use.PRUNE_VIDEO, index=index)
            audio = select_audio(
                audio_importance,
                audio_pruned,
                self.audio_kept,
                freqs=self.freqs,
                chunk=self.chunk,
                along=self.audio_selection,
                cut=self.cut,
                seed=seed,
                index=index,
            )
            video = sample(video_importance, video_pruned, self.video_kept, seed=seed, use=Use.VIDEO, index=index)
            self._seen["audio_pruned"] = audio_pruned.float().mean()
            self._seen["video_pruned"] = video_pruned.float().mean()
        self._seen["audio_entropy"] = _entropy(audio_importance.gather(1, audio))
        self._seen["video_entropy"] = _entropy(video_importance.gather(1, video))
        return clip.take(video, audio)

    def _match(self, learner: Learner, encoded: tuple[Tensor, Tensor], fused: tuple[Tensor, Tensor]) -> Tensor:
        """How badly the matching module tells true pairs from shuffled ones; only the latter are fused anew."""
        (audio, video), (fused_audio, fused_video) = encoded, fused
        partner = partners(len(audio), learner.generators["method"]).to(audio.device)
        own = partner == torch.arange(len(partner), device=audio.device)
        if len(partner) > 2:
            wrong = (~own).nonzero().squeeze(1)
            with torch.no_grad():
                wrong_audio, wrong_video = learner.backbone.fuse(audio[wrong], video[partner[wrong]])
            fused_audio = fused_audio.index_copy(0, wrong, wrong_audio)
            fused_video = fused_video.index_copy(0, wrong, wrong_video)
        logits = self.matching(fused_audio, fused_video)
        self._seen["matching_accuracy"] = ((logits > 0) == own).float().mean()
        return binary_cross_entropy_with_logits(logits, own.to(logits.dtype))

    def misfits(self, learner: Learner) -> Iterator[str]:
        """Settings that do not fit the backbone, one line each."""
        dim, grid = learner.backbone.dim, learner.backbone.grid
        if dim % self.heads:
            yield f"heads: {self.heads} does not divide the backbone's width {dim}; choose a divisor"
        axis = {"time": grid.times, "frequency": grid.freqs}.get(self.audio_selection)
        if axis is not None and axis % self.chunk:
            yield f"chunk: {self.chunk} does not divide the {axis} patches of {self.audio_selection}; choose a divisor"
        yield from super().misfits(learner)


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
