"""CAV-MAE keeps the promises in both forms, and each promise catches the one who breaks it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from avcl import Backbone, CavMae
from avcl.testing import backbone as testing
from avcl.testing import check_backbone, small_backbone

SETTINGS = small_backbone().settings()


@pytest.mark.parametrize("form", ["stella", "cav-mae"])
@pytest.mark.parametrize("visible_of", ["grid", "kept"])
def test_cav_mae_keeps_every_promise(form, visible_of):
    frames = 1 if form == "cav-mae" else 2
    check_backbone(lambda: CavMae(**SETTINGS | {"form": form, "frames": frames, "visible_of": visible_of}))


# ---- who breaks what ---------------------------------------------------------------------------------------


class Offender(CavMae):
    """Changes what its methods return."""

    name = "offender"

    def forward(self, clip, masks=None):
        output = super().forward(clip, masks)
        return dataclasses.replace(output, **self.changed(output))

    def changed(self, output) -> dict[str, Any]:
        return {}


def test_the_innocent_one_passes():
    check_backbone(lambda: Offender(**SETTINGS))


def outputs(**parts):
    """An offender whose output has other ``parts``: functions of an output."""

    class Other(Offender):
        def changed(self, output):
            return {key: part(output) for key, part in parts.items()}

    return Other


def terms(change):
    """An offender whose loss terms are changed."""
    return outputs(terms=lambda output: {key: change(term) for key, term in output.terms.items()})


def methods(**parts):
    """An offender of other methods, functions of what CAV-MAE's return."""

    def method(key):
        return lambda self, *given, **more: parts[key](getattr(CavMae, key)(self, *given, **more))

    return type("Other", (Offender,), {key: method(key) for key in parts})


@dataclass(kw_only=True, eq=False, repr=False)
class TakesAnything(Offender):
    level: Any = 1.0


class NoEmbed(Offender):
    embed = Backbone.embed


class TupleGrid(Offender):
    def __post_init__(self):
        super().__post_init__()
        self.grid = tuple(self.grid)


class DependsOnBatch(Offender):
    def embed(self, clip):
        return tuple(side - side.mean(0) for side in super().embed(clip))


class Mixes(Offender):
    def embed(self, clip):
        audio, video = super().embed(clip)
        return audio, video + audio


class Drops(Offender):
    def forward(self, clip, masks=None):
        output = super().forward(clip, masks)
        terms = {key: torch.nn.functional.dropout(term, 0.5) for key, term in output.terms.items()}
        return dataclasses.replace(output, terms=terms)


class IgnoresItsGenerator(Offender):
    def draw_masks(self, clip, generator=None):
        return super().draw_masks(clip)


class AlwaysTheSame(Offender):
    def draw_masks(self, clip, generator=None):
        return super().draw_masks(clip, torch.Generator().manual_seed(0))


class Counts(Offender):
    def __post_init__(self):
        super().__post_init__()
        self.register_buffer("passes", torch.zeros(()))

    def changed(self, output):
        self.passes += 1
        return {}


class Forgets(Offender):
    """A part of its state is in no state_dict."""

    made = 0

    def __post_init__(self):
        super().__post_init__()
        Forgets.made += 1
        self.level = float(Forgets.made)

    def embed(self, clip):
        return tuple(self.level * side for side in super().embed(clip))

    def changed(self, output):
        return {"audio": self.level * output.audio, "video": self.level * output.video}


class NeedsFloat32(Offender):
    def contrast(self, audio, video):
        return super().contrast(audio, video) + 0 * float((audio @ video.T).detach().numpy().sum())


def all_visible(masks):
    return dataclasses.replace(masks, video_visible=masks.video.shape[1])


def twice(masks):
    return dataclasses.replace(masks, audio=masks.audio // 2)


class Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx, term):
        return term.clone()

    @staticmethod
    def backward(ctx, slope):
        return slope * torch.inf


LOSS, STEP, EMBED = testing.gives_loss_terms_per_clip, testing.has_a_gradient, testing.embeds
SAME, MASKS, APART = testing.is_deterministic, testing.masks_patches, testing.keeps_clips_apart
CAUGHT = {
    "any setting": (TakesAnything, testing.refuses_invalid_settings, "level takes anything"),
    "no embed": (NoEmbed, testing.defines_its_methods, "missing: embed"),
    "a tuple for a grid": (TupleGrid, testing.defines_its_methods, "grid is a tuple; must be an avcl.Grid"),
    "no masks": (methods(draw_masks=lambda masks: None), MASKS, "draw_masks returned a NoneType; must be avcl.Masks"),
    "nothing hidden": (methods(draw_masks=all_visible), MASKS, "8 of 8 video patches are visible"),
    "patches twice": (methods(draw_masks=twice), MASKS, "masks.audio (1, 8) is no permutation of 8 patches"),
    "one loss": (terms(torch.mean), LOSS, "term 'mae_audio' is (); must be (1,)"),
    "one loss for all": (terms(lambda term: term.mean().expand(len(term))), LOSS, "is one number for all clips"),
    "losses upside down": (
        terms(lambda term: term + torch.arange(len(term))),
        APART,
        "term 'mae_audio' does not follow the order of the clips",
    ),
    "no number": (terms(lambda term: term * torch.nan), LOSS, "term 'mae_audio' is not finite"),
    "no term": (outputs(terms=lambda output: {}), LOSS, "forward returned no loss term"),
    "tokens for embeddings": (outputs(audio=lambda output: output.audio[:, None]), LOSS, "output.audio is (1, 1, 24)"),
    "one contrast": (methods(contrast=torch.mean), LOSS, "term 'contrastive' is (); must be (1,)"),
    "detached": (terms(torch.detach), STEP, "the loss does not depend on any weight"),
    "no slope": (terms(lambda term: term.detach() + 0 * term), STEP, "the gradient is zero"),
    "infinite slope": (terms(Root.apply), STEP, "the gradient is not finite"),
    "wide embeddings": (
        methods(embed=lambda pair: tuple(torch.cat([side, side], 1) for side in pair)),
        EMBED,
        "embed: audio is (1, 48); must be (1, 24)",
    ),
    "video first": (methods(fuse=lambda pair: pair[::-1]), EMBED, "fuse: audio is (4, 6, 24); must be (4, 7, 24)"),
    "the batch's": (DependsOnBatch, APART, "embed: a clip's audio depends on the other clips of its batch"),
    "both modalities at once": (
        Mixes,
        testing.embeds_each_modality_alone,
        "embed: a clip's video depends on its audio",
    ),
    "other embeddings": (
        outputs(video=lambda output: 2 * output.video),
        testing.sees_visible_patches_alone,
        "output.video is not what embed gives for the visible patches",
    ),
    "dropout": (Drops, SAME, "draws from a global generator"),
    "no generator": (IgnoresItsGenerator, SAME, "draws from a global generator"),
    "always the same": (AlwaysTheSame, SAME, "draw_masks does not draw from its generator"),
    "counts": (Counts, SAME, "a forward pass changed weights or buffers"),
    "forgets": (Forgets, testing.survives_copying, "build(cls, settings()) with its state_dict gives other embeddings"),
    "float32 only": (NeedsFloat32, testing.trains_in_bfloat16, "TypeError: Got unsupported ScalarType BFloat16"),
}


@pytest.mark.parametrize("what", CAUGHT)
def test_who_breaks_a_promise_is_caught(caught, what):
    cls, promise, text = CAUGHT[what]
    caught(check_backbone, lambda: cls(**SETTINGS), promise, text)


def test_every_promise_has_an_offender():
    assert {promise for _, promise, _ in CAUGHT.values()} == set(testing.PROMISES)
