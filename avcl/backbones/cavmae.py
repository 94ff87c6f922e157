"""CAV-MAE, the contrastive audio-visual masked autoencoder, in its two published forms and three sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from avcl import losses
from avcl.backbones.blocks import Block, Stream
from avcl.backbones.hub import Pretrained
from avcl.backbones.pos_embed import audio_table, look_up, video_table
from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid, Masks, Output, Shape
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.settings import Count, NonNegative, Positive

PRESET: Any = None

FORMS: dict[str, dict[str, Any]] = {
    "stella": {"depth": 10, "fusion_depth": 2, "mask_ratio": 0.8, "contrastive_weight": 0.1},
    "cav-mae": {"depth": 11, "fusion_depth": 1, "mask_ratio": 0.75, "contrastive_weight": 0.01},
}
SIZES: dict[str, dict[str, Any]] = {
    "base": {"dim": 768, "heads": 12, "decoder_dim": 512, "decoder_heads": 16, "decoder_depth": 8},
    "small": {"dim": 384, "heads": 6, "decoder_dim": 256, "decoder_heads": 8, "decoder_depth": 4},
    "tiny": {"dim": 96, "heads": 4, "decoder_dim": 64, "decoder_heads": 4, "decoder_depth": 1}
    | {"depth": 2, "fusion_depth": 1, "mask_ratio": 0.6, "contrastive_weight": 1.0},
}


@dataclass(kw_only=True, eq=False, repr=False)
class CavMae(Backbone, Pretrained):
    """Blocks for each modality, fusion blocks with norms of their own for each use, and a masked decoder.

    Gong et al., *Contrastive Audio-Visual Masked Autoencoder*, ICLR 2023, arXiv 2210.07839; the form of Lee
    et al., *STELLA: Continual Audio-Video Pre-training with SpatioTemporal Localized Alignment*, ICML 2024,
    arXiv 2310.08204.

    ``form``: ``stella`` has tables that learn and are added a second time before the fusion blocks, decodes
    each modality alone and contrasts in both directions; ``cav-mae`` sees one frame, has fixed tables, one
    mask token for both, decodes both modalities together and contrasts video to audio only.
    ``size``: ``base`` is the published one (ViT-B); ``small`` is as deep, with half of the width (ViT-S) and
    half of the decoder: a quarter of the weights; ``tiny`` has three blocks and is for minutes on a CPU.
    ``frames`` to ``mels``: what one clip looks like · ``patch``: side of a patch · ``dim`` to
    ``decoder_depth``: widths, heads and blocks (``depth`` counts those of one modality) ·
    ``mask_ratio``: share of hidden patches · ``visible_of``: what that is a share of, the full grid (a clip
    of which a strategy kept half still shows as many patches, and fewer are left to reconstruct) or the
    patches that were ``kept`` · the weights of the two losses · ``temperature`` of the contrastive one.

    Settings without a default take it from ``form`` and ``size``: mask_ratio and contrastive_weight are
    0.8 and 0.1 for ``stella``, 0.75 and 0.01 for ``cav-mae``, 0.6 and 1.0 for ``tiny`` in either form (with
    the published weights of the losses, the contrastive one stays at chance for over 1,000 steps from scratch).
    """

    name = "cav-mae"

    size: Literal["tiny", "small", "base"] = "base"
    form: Literal["stella", "cav-mae"] = "stella"
    frames: Count = 4
    height: Count = 224
    width: Count = 224
    times: Count = 1024
    mels: Count = 128
    patch: Count = 16
    dim: Count = PRESET
    heads: Count = PRESET
    depth: Count = PRESET
    fusion_depth: Count = PRESET
    decoder_dim: Count = PRESET
    decoder_heads: Count = PRESET
    decoder_depth: Count = PRESET
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = PRESET
    visible_of: Literal["grid", "kept"] = "grid"
    mae_weight: NonNegative = 1.0
    contrastive_weight: NonNegative = PRESET
    temperature: Positive = 0.05

    def __post_init__(self) -> None:
        preset = FORMS.get(self.form, FORMS["stella"]) | SIZES.get(self.size, SIZES["base"])
        for key, value in preset.items():
            if getattr(self, key) is None:
                setattr(self, key, value)
        super().__post_init__()
        self.grid = self._full_grid()
        self._build()
        self._initialise()

    def mistakes(self) -> Iterator[str]:
        """Sizes that do not divide, a form that cannot see the frames, masks that hide nothing or all."""
        for key in ("height", "width", "times", "mels"):
            if getattr(self, key) % self.patch:
                yield f"{key}: {getattr(self, key)} is not a multiple of patch = {self.patch}"
        for prefix in ("", "decoder_"):
            dim, heads = getattr(self, prefix + "dim"), getattr(self, prefix + "heads")
            if dim % heads:
                yield f"{prefix}heads: {heads} does not divide {prefix}dim = {dim}"
            if dim % 4:
                yield f"{prefix}dim: {dim} is not a multiple of 4, as sine-cosine tables need"
        if self.form == "cav-mae" and self.frames != 1:
            yield f"frames: {self.frames} is not allowed: the form 'cav-mae' sees 1 frame; 'stella' sees any"
        grid = self._full_grid()
        for kind, patches in (("audio", grid.audio), ("video", grid.video)):
            if patches and not int(patches * (1 - self.mask_ratio)):
                yield f"mask_ratio: {self.mask_ratio} hides all {patches} {kind} patches: one must be seen"

    def _full_grid(self) -> Grid:
        return Shape(self.frames, self.height, self.width, self.times, self.mels).grid(self.patch)

    def _build(self) -> None:
        learned = self.form == "stella"
        self.audio, self.video = (
            Stream(
                channels * self.patch**2,
                self.heads,
                self.depth,
                table(self.grid, self.dim),
                table(self.grid, self.decoder_dim),
                learned=learned,
            )
            for channels, table in ((1, audio_table), (3, video_table))
        )
        kinds = ("joint", "audio", "video")
        self.fusion = nn.ModuleList(Block(self.dim, self.heads, kinds) for _ in range(self.fusion_depth))
        self.norm = nn.LayerNorm(self.dim)
        self.decoder_embed = nn.Linear(self.dim, self.decoder_dim)
        self.mask_tokens = nn.ParameterDict(
            {kind: torch.empty(self.decoder_dim) for kind in (kinds[1:] if learned else kinds[:1])}
        )
        self.decoder_blocks = nn.ModuleList(
            Block(self.decoder_dim, self.decoder_heads) for _ in range(self.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(self.decoder_dim)

    def _initialise(self) -> None:
        """Patch embeddings as a linear layer, tokens N(0, 0.02); the rest as the form does (tiny: as CAV-MAE)."""
        xavier = self.form == "cav-mae" or self.size == "tiny"
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if xavier or name.endswith(".embed"):
                    nn.init.xavier_uniform_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for stream in (self.audio, self.video):
            nn.init.normal_(stream.modality, std=0.02)
            nn.init.normal_(stream.decoder_modality, std=0.02)
        for token in self.mask_tokens.values():
            nn.init.normal_(token, std=0.02)

    def forward(self, clip: Clip, masks: Masks | None = None) -> Output:
        """Terms ``mae_audio``, ``mae_video`` and ``contrastive``; embeddings of the visible patches."""
        if masks is None:
            masks = self.draw_masks(clip)
        seen, hidden = masks.seen(clip), masks.hidden(clip)
        audio, video = self.encode(seen)
        pooled_audio, pooled_video = self.alone(audio, "audio").mean(1), self.alone(video, "video").mean(1)
        decoded_audio, decoded_video = self.decode(*self.fuse(audio, video), seen, hidden)
        predicted_audio = self.audio.head(decoded_audio[:, audio.shape[1] :])
        predicted_video = self.video.head(decoded_video[:, video.shape[1] :])
        terms = {
            "mae_audio": self.mae_weight * losses.reconstruction(predicted_audio, hidden.audio),
            "mae_video": self.mae_weight * losses.reconstruction(predicted_video, hidden.video),
            "contrastive": self.contrast(pooled_audio, pooled_video),
        }
        return Output(terms=terms, video=pooled_video, audio=pooled_audio)

    def draw_masks(self, clip: Clip, generator: torch.Generator | None = None) -> Masks:
        """Hide a random ``mask_ratio`` of each modality's patches, each patch as likely as any other."""
        noise = [torch.rand(x.shape[:2], generator=generator) for x in (clip.audio, clip.video)]
        return self.rank(*noise).to(clip.video.device)

    def rank(self, audio_noise: Tensor, video_noise: Tensor) -> Masks:
        """The masks that show the patches of least noise, ``(B, A)`` and ``(B, V)``."""
        return Masks(
            video=video_noise.argsort(1),
            audio=audio_noise.argsort(1),
            video_visible=self._visible("video", video_noise.shape[1], self.grid.video),
            audio_visible=self._visible("audio", audio_noise.shape[1], self.grid.audio),
        )

    def _visible(self, kind: str, kept: int, full: int) -> int:
        """How many of a clip's ``kept`` patches are seen. Raises UserError where none is, or none is hidden."""
        seen = int((full if self.visible_of == "grid" else kept) * (1 - self.mask_ratio))
        if seen >= kept:
            raise UserError(
                f"mask_ratio: {self.mask_ratio} shows {seen} of {full} {kind} patches, but a clip keeps only {kept}: "
                f"nothing is left to reconstruct; keep more than 1 - mask_ratio = {1 - self.mask_ratio:.3g} of them"
            )
        if not seen:
            raise UserError(f"mask_ratio: {self.mask_ratio} hides all {kept} {kind} patches that a clip keeps")
        return seen

    def contrast(self, audio: Tensor, video: Tensor) -> Tensor:
        """The weighted InfoNCE of each pair of embeddings (B, D): (B,)."""
        both = self.form == "stella"
        return self.contrastive_weight * losses.contrastive(audio, video, self.temperature, both=both)

    def embed(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Means over the tokens of each modality alone, ``(audio (B, D), video (B, D))``, not normalised."""
        audio, video = self.encode(clip)
        return self.alone(audio, "audio").mean(1), self.alone(video, "video").mean(1)

    def embed_patches(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Each patch alone, ``(audio (B, A, D), video (B, V, D))``, before tables and blocks."""
        return self.audio.embed(clip.audio), self.video.embed(clip.video)

    def encode(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Tokens of each modality's own blocks ``(audio (B, A, D), video (B, V, D))``, ready to be fused."""
        return self._encode(clip.audio, clip.audio_at, "audio"), self._encode(clip.video, clip.video_at, "video")

    def _encode(self, patches: Tensor, at: Tensor, kind: str) -> Tensor:
        stream = getattr(self, kind)
        (count, numbers), most, allowed = patches.shape[1:], len(stream.table), stream.embed.in_features
        if count > most or numbers != allowed:
            raise UserError(
                f"clip: {count} {kind} patches of {numbers} numbers do not fit a backbone for {most} of {allowed}: "
                "give it the frames, height, width, times and mels of the scenario, and cut by its patch"
            )
        return stream(patches, at)

    def alone(self, tokens: Tensor, kind: Literal["audio", "video"]) -> Tensor:
        """Encoded tokens of one modality (B, L, D) through the fusion blocks with that modality's norms."""
        for block in self.fusion:
            tokens = block(tokens, kind)
        return getattr(self, kind).norm(tokens)

    def fuse(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Joint tokens ``(audio, video)`` of encoded tokens, before the last norm."""
        tokens = torch.cat([audio, video], dim=1)
        for block in self.fusion:
            tokens = block(tokens)
        return tokens[:, : audio.shape[1]], tokens[:, audio.shape[1] :]

    def decode(self, audio: Tensor, video: Tensor, seen: Clip, hidden: Clip) -> tuple[Tensor, Tensor]:
        """Decoder tokens ``(audio (B, A, E), video (B, V, E))`` of joint ones: those seen, then those hidden."""
        audio = self._decoder_input(audio, "audio", seen.audio_at, hidden.audio_at)
        video = self._decoder_input(video, "video", seen.video_at, hidden.video_at)
        if self.form == "stella":
            return self._decode(audio), self._decode(video)
        tokens = self._decode(torch.cat([audio, video], dim=1))
        return tokens[:, : audio.shape[1]], tokens[:, audio.shape[1] :]

    def _decoder_input(self, tokens: Tensor, kind: str, seen_at: Tensor, hidden_at: Tensor) -> Tensor:
        stream = getattr(self, kind)
        mask = self.mask_tokens[kind if kind in self.mask_tokens else "joint"]
        tokens = self.decoder_embed(self.norm(tokens))
        tokens = torch.cat([tokens, mask.to(tokens.dtype).expand(*hidden_at.shape, -1)], dim=1)
        at = torch.cat([seen_at, hidden_at], dim=1)
        return tokens + look_up(stream.decoder_table, at) + stream.decoder_modality

    def _decode(self, tokens: Tensor) -> Tensor:
        for block in self.decoder_blocks:
            tokens = block(tokens)
        return self.decoder_norm(tokens)

    def no_decay(self) -> Iterable[str]:
        """The tables of positions."""
        return [name for name, _ in self.named_parameters() if name.endswith("table")]


@hookimpl
def backbones() -> list[type[Backbone]]:
    """CAV-MAE."""
    return [CavMae]
