"""CAV-MAE, the contrastive audio-visual masked autoencoder, in its two published forms and three sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from avcl import losses
from avcl.backbones.blocks import Block, Stream
from avcl.backbones.hub import Pretrained
from avcl.backbones.pos_embed import audio_table, look_up, video_table
from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid, Masks, Output, Shape
from avcl.errors import UserError
from avcl.hookspecs import hookimpl

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
    """CAV-MAE: one transformer encoder a modality, shared fusion blocks, and a masked decoder.

    Gong et al., *Contrastive Audio-Visual Masked Autoencoder*, ICLR 2023, arXiv 2210.07839; the form of Lee
    et al., *STELLA: Continual Audio-Video Pre-training with SpatioTemporal Localized Alignment*, ICML 2024,
    arXiv 2310.08204.

    The form ``stella`` has position tables that learn and are added a second time before the fusion blocks,
    decodes each modality alone and contrasts in both directions; ``cav-mae`` sees one frame, has fixed tables,
    one mask token for both, decodes both modalities together and contrasts video to audio only. The size
    ``small`` is as deep as the published ``base``, with half of the width and half of the decoder: a quarter
    of the weights; ``tiny`` has three blocks. Its weights of the losses are the same in both forms: with the
    published ones the contrastive loss stays at chance for over 1,000 steps from scratch.

    Args:
        size: Width and depth: base (ViT-B, published), small (ViT-S) or tiny (trains in minutes on a CPU).
        form: Architecture of the STELLA authors (stella) or of the CAV-MAE authors (cav-mae).
        frames: Frames of a clip; 1 for the form cav-mae.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        times: Time steps of the log-mel spectrogram.
        mels: Mel bins of the log-mel spectrogram.
        patch: Side of a patch in pixels, and in time steps and mel bins.
        dim: Embedding dimension D of the encoder; default by size: 768, 384, 96.
        heads: Attention heads of the encoder; default by size: 12, 6, 4.
        depth: Transformer blocks of each modality; default: 10 (stella), 11 (cav-mae), 2 (tiny).
        fusion_depth: Transformer blocks shared by both modalities; default: 2 (stella), 1 (cav-mae, tiny).
        decoder_dim: Embedding dimension of the decoder; default by size: 512, 256, 64.
        decoder_heads: Attention heads of the decoder; default by size: 16, 8, 4.
        decoder_depth: Transformer blocks of the decoder; default by size: 8, 4, 1.
        mask_ratio: Share of masked patches; default: 0.8 (stella), 0.75 (cav-mae), 0.6 (tiny).
        visible_of: What mask_ratio is a share of. With grid (the authors' form), a clip of which a strategy kept
            half shows as many patches as a whole one, and fewer are left to reconstruct; with kept, half as many.
        mae_weight: Weight of the masked reconstruction losses.
        contrastive_weight: Weight of the contrastive loss; default: 0.1 (stella), 0.01 (cav-mae), 1 (tiny).
        temperature: Temperature of the contrastive loss (τ).
    """

    name = "cav-mae"

    size: Literal["tiny", "small", "base"] = "base"
    form: Literal["stella", "cav-mae"] = "stella"
    frames: PositiveInt = 4
    height: PositiveInt = 224
    width: PositiveInt = 224
    times: PositiveInt = 1024
    mels: PositiveInt = 128
    patch: PositiveInt = 16
    dim: PositiveInt = PRESET
    heads: PositiveInt = PRESET
    depth: PositiveInt = PRESET
    fusion_depth: PositiveInt = PRESET
    decoder_dim: PositiveInt = PRESET
    decoder_heads: PositiveInt = PRESET
    decoder_depth: PositiveInt = PRESET
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = PRESET
    visible_of: Literal["grid", "kept"] = "grid"
    mae_weight: NonNegativeFloat = 1.0
    contrastive_weight: NonNegativeFloat = PRESET
    temperature: PositiveFloat = 0.05

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
        """Sizes that do not divide, frames that the form does not take, masks that leave no patch visible."""
        for key in ("height", "width", "times", "mels"):
            if (value := getattr(self, key)) % self.patch:
                yield f"{key}: invalid value {value}: must be a multiple of patch = {self.patch}"
        for prefix in ("", "decoder_"):
            dim, heads = getattr(self, prefix + "dim"), getattr(self, prefix + "heads")
            if dim % heads:
                yield f"{prefix}heads: invalid value {heads}: must divide {prefix}dim = {dim}"
            if dim % 4:
                yield f"{prefix}dim: invalid value {dim}: must be a multiple of 4, as sine-cosine tables need"
        if self.form == "cav-mae" and self.frames != 1:
            yield f"frames: invalid value {self.frames}: must be 1 for the form 'cav-mae'; 'stella' takes any number"
        grid = self._full_grid()
        for kind, patches in (("audio", grid.audio), ("video", grid.video)):
            if patches and not int(patches * (1 - self.mask_ratio)):
                yield f"mask_ratio: invalid value {self.mask_ratio}: must leave one of {patches} {kind} patches visible"

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
        """Loss terms ``mae_audio``, ``mae_video`` and ``contrastive``, and embeddings of the visible patches."""
        if masks is None:
            masks = self.draw_masks(clip)
        seen, hidden = masks.seen(clip), masks.hidden(clip)
        audio, video = self.encode(seen)
        pooled_audio, pooled_video = self.alone(audio, "audio").mean(1), self.alone(video, "video").mean(1)
        predicted_audio, predicted_video = self.predict(audio, video, seen, hidden)
        terms = {
            "mae_audio": self.mae_weight * losses.reconstruction(predicted_audio, hidden.audio),
            "mae_video": self.mae_weight * losses.reconstruction(predicted_video, hidden.video),
            "contrastive": self.contrast(pooled_audio, pooled_video),
        }
        return Output(terms=terms, video=pooled_video, audio=pooled_audio)

    def predict(self, audio: Tensor, video: Tensor, seen: Clip, hidden: Clip) -> tuple[Tensor, Tensor]:
        """The masked patches, normalised, ``(audio (B, A, p*p), video (B, V, p*p*3))``, of encoded visible ones."""
        decoded_audio, decoded_video = self.decode(*self.fuse(audio, video), seen, hidden)
        return (
            self.audio.head(decoded_audio[:, audio.shape[1] :]),
            self.video.head(decoded_video[:, video.shape[1] :]),
        )

    @torch.no_grad()
    def reconstruct(self, clip: Clip, masks: Masks) -> Clip:
        """The clip with its masked patches as they are predicted, at the mean and variance that they have."""
        seen, hidden = masks.seen(clip), masks.hidden(clip)
        audio, video = self.predict(*self.encode(seen), seen, hidden)
        patches = {}
        for kind, predicted in (("audio", audio), ("video", video)):
            made = losses.reconstructed(predicted, getattr(hidden, kind))
            back = getattr(masks, kind).argsort(1)[..., None].expand(-1, -1, made.shape[2])
            patches[kind] = torch.cat([getattr(seen, kind), made.to(clip.video.dtype)], dim=1).gather(1, back)
        return clip.replace(**patches)

    def draw_masks(self, clip: Clip, generator: torch.Generator | None = None) -> Masks:
        """Random masks: ``mask_ratio`` of each modality's patches, each patch as likely as any other."""
        return self.rank(clip.noise("audio", generator), clip.noise("video", generator)).to(clip.video.device)

    def rank(self, audio_noise: Tensor, video_noise: Tensor) -> Masks:
        """The masks under which the patches of least noise, ``(B, A)`` and ``(B, V)``, are visible."""
        return Masks(
            video=video_noise.argsort(1),
            audio=audio_noise.argsort(1),
            video_visible=self._visible("video", video_noise.shape[1], self.grid.video),
            audio_visible=self._visible("audio", audio_noise.shape[1], self.grid.audio),
        )

    def _visible(self, kind: str, kept: int, full: int) -> int:
        """How many of a clip's ``kept`` patches are visible. Raises UserError where none is, or none is masked."""
        seen = int((full if self.visible_of == "grid" else kept) * (1 - self.mask_ratio))
        if seen >= kept:
            raise UserError(
                f"mask_ratio: invalid value {self.mask_ratio}: {seen} of {full} {kind} patches are visible, but a clip "
                f"keeps only {kept}: must keep more than 1 - mask_ratio = {1 - self.mask_ratio:.3g} of them"
            )
        if not seen:
            raise UserError(
                f"mask_ratio: invalid value {self.mask_ratio}: masks all {kept} {kind} patches that a clip keeps: "
                "must leave one visible"
            )
        return seen

    def contrast(self, audio: Tensor, video: Tensor) -> Tensor:
        """The weighted contrastive loss (InfoNCE) of each pair of embeddings (B, D): (B,)."""
        both = self.form == "stella"
        return self.contrastive_weight * losses.contrastive(audio, video, self.temperature, both=both)

    def embed(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Mean-pooled embeddings of each modality alone, ``(audio (B, D), video (B, D))``, not normalised."""
        audio, video = self.encode(clip)
        return self.alone(audio, "audio").mean(1), self.alone(video, "video").mean(1)

    def embed_patches(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Patch embeddings ``(audio (B, A, D), video (B, V, D))``, before position tables and blocks."""
        return self.audio.embed(clip.audio), self.video.embed(clip.video)

    def encode(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Tokens of each modality's encoder ``(audio (B, A, D), video (B, V, D))``, ready to be fused."""
        return self._encode(clip.audio, clip.audio_at, "audio"), self._encode(clip.video, clip.video_at, "video")

    def encode_first(self, clip: Clip, blocks: int) -> tuple[Tensor, Tensor]:
        """Tokens ``(audio (B, A, D), video (B, V, D))`` after the first ``blocks`` of each modality's blocks."""
        if blocks > self.depth:
            raise UserError(f"the backbone has {self.depth} blocks of each modality")
        audio = self._encode(clip.audio, clip.audio_at, "audio", blocks)
        return audio, self._encode(clip.video, clip.video_at, "video", blocks)

    def _encode(self, patches: Tensor, at: Tensor, kind: str, blocks: int | None = None) -> Tensor:
        stream = getattr(self, kind)
        (count, numbers), most, allowed = patches.shape[1:], len(stream.table), stream.embed.in_features
        if count > most or numbers != allowed:
            raise UserError(
                f"clip: {count} {kind} patches of {numbers} values do not fit the backbone (at most {most} of "
                f"{allowed}): set its frames, height, width, times and mels to the scenario's, and cut by its patch"
            )
        return stream(patches, at) if blocks is None else stream.first(patches, at, blocks)

    def alone(self, tokens: Tensor, kind: Literal["audio", "video"]) -> Tensor:
        """Tokens of one modality (B, L, D) through the fusion blocks with that modality's norms, and the last norm."""
        for block in self.fusion:
            tokens = block(tokens, kind)
        return getattr(self, kind).norm(tokens)

    def fuse(self, audio: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
        """Joint tokens ``(audio, video)`` of encoded tokens, before the last norm."""
        tokens = torch.cat([audio, video], dim=1)
        for block in self.fusion:
            tokens = block(tokens)
        return tokens[:, : audio.shape[1]], tokens[:, audio.shape[1] :]

    def fusion_features(self, audio: Tensor, video: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Hidden features (B, L, 4 D) of the MLP of every fusion block, ``(audio, video)`` each, of encoded tokens."""
        tokens, found = torch.cat([audio, video], dim=1), []
        for block in self.fusion:
            tokens, features = cast(Block, block).hidden(tokens)
            found.append((features[:, : audio.shape[1]], features[:, audio.shape[1] :]))
        return found

    def decode(self, audio: Tensor, video: Tensor, seen: Clip, hidden: Clip) -> tuple[Tensor, Tensor]:
        """Decoder tokens ``(audio (B, A, E), video (B, V, E))`` of fused ones: the visible, then the masked."""
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
        """The position tables."""
        return [name for name, _ in self.named_parameters() if name.endswith("table")]


@hookimpl
def backbones() -> list[type[Backbone]]:
    """CAV-MAE."""
    return [CavMae]
