"""A backbone: one MLP over the patches of each modality, and the mean of what it makes of them."""

from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import nn

from avcl import Backbone, Masks, Output, Shape, hookimpl, losses
from avcl.settings import Share


@dataclass(kw_only=True, eq=False, repr=False)
class PatchMlp(Backbone):
    """Patch-wise MLP: masked patches are reconstructed from the mean of all visible ones.

    Args:
        frames: Frames of a clip.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        times: Time steps of the log-mel spectrogram.
        mels: Mel bins of the log-mel spectrogram.
        patch: Side of a patch.
        dim: Embedding dimension D.
        visible: Share of patches that are visible.
    """

    name = "patch-mlp"

    frames: PositiveInt = 2
    height: PositiveInt = 64
    width: PositiveInt = 64
    times: PositiveInt = 256
    mels: PositiveInt = 64
    patch: PositiveInt = 16
    dim: PositiveInt = 64
    visible: Share = 0.4

    def __post_init__(self):
        super().__post_init__()
        self.grid = Shape(self.frames, self.height, self.width, self.times, self.mels).grid(self.patch)
        values = {"audio": self.patch**2, "video": 3 * self.patch**2}
        self.place = nn.ModuleDict({kind: nn.Embedding(getattr(self.grid, kind), self.dim) for kind in values})
        self.encoder = nn.ModuleDict({kind: nn.Linear(size, self.dim) for kind, size in values.items()})
        self.decoder = nn.ModuleDict({kind: nn.Linear(self.dim, size) for kind, size in values.items()})

    def draw_masks(self, clip, generator=None):
        orders = {k: torch.rand(getattr(clip, k).shape[:2], generator=generator).argsort(1) for k in self.place}
        shown = {f"{k}_visible": max(1, int(self.visible * order.shape[1])) for k, order in orders.items()}
        return Masks(**orders, **shown).to(clip.video.device)

    def forward(self, clip, masks=None):
        masks = masks or self.draw_masks(clip)
        hidden, (audio, video) = masks.hidden(clip), self.embed(masks.seen(clip))
        terms = {"contrastive": self.contrast(audio, video)}
        for kind in self.place:
            at = self.place[kind](getattr(hidden, f"{kind}_at"))
            guess = self.decoder[kind](nn.functional.gelu((audio + video)[:, None] + at))
            terms[f"mae_{kind}"] = losses.reconstruction(guess, getattr(hidden, kind))
        return Output(terms=terms, audio=audio, video=video)

    def contrast(self, audio, video):
        return losses.contrastive(audio, video, temperature=0.05)

    def encode(self, clip):
        pairs = ("audio", clip.audio, clip.audio_at), ("video", clip.video, clip.video_at)
        return tuple(nn.functional.gelu(self.encoder[kind](x) + self.place[kind](at)) for kind, x, at in pairs)

    def fuse(self, audio, video):
        return audio + video.mean(1, keepdim=True), video + audio.mean(1, keepdim=True)

    def embed(self, clip):
        return tuple(tokens.mean(1) for tokens in self.encode(clip))


@hookimpl
def backbones():
    return [PatchMlp]
