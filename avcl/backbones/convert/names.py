"""The names and layouts of MAE, CAV-MAE and STELLA checkpoints for the tensors of a backbone of ours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from einops import rearrange, repeat
from torch import Tensor

from avcl.backbones.convert.detect import Kind
from avcl.backbones.weights import State

if TYPE_CHECKING:
    from avcl.backbones.cavmae import CavMae

# Official names of what a stream holds ({a}: a or v; {audio}: audio or video), by the start of ours.
STREAM = {
    "modality": "modality_{a}",
    "table": "pos_embed_{a}",
    "fusion_table": "inter_pos_embed_{a}",
    "decoder_modality": "decoder_modality_{a}",
    "decoder_table": "decoder_pos_embed_{a}",
    "embed.": "patch_embed_{a}.proj.",
    "blocks.": "blocks_{a}.",
    "norm.": "norm_{a}.",
}
HEAD = {"stella": "mae_score_{audio}.decoder.", "cav-mae": "decoder_pred_{a}."}
ELSEWHERE = {
    "fusion.": "blocks_u.",
    "mask_tokens.joint": "mask_token",
    "mask_tokens.audio": "mask_token_a",
    "mask_tokens.video": "mask_token_v",
}
NORMS = {".joint.": ".", ".audio.": "_a.", ".video.": "_v."}
MATCHING = "avmatching_module."
NOT_IN_MAE = re.compile(r"(inter_|decoder_)?pos_embed_a|(decoder_)?modality_[av]")

# Official CAV-MAE gives every block three pairs of norms where one is used, and class tokens that nothing reads.
UNUSED = r"(blocks_[av]|decoder_blocks)\.\d+\.norm[12]_[av]\.(weight|bias)|cls_token_(a|v|av)"
SKIPPED: dict[Kind, dict[str, str]] = {
    "stella": {r"vacls_classifier\..+": "classification head"},
    "cav-mae": {UNUSED: "unused by the model", r"mlp_head\..+": "classification head"},
    "mae": {r"cls_token": "the backbone has no class token", r"head\..+": "classification head"},
}
"""Patterns of names that are not converted, and why."""


def reason_to_skip(name: str, kind: Kind) -> str:
    """Why a tensor of theirs is not converted; empty where there is no reason."""
    return next((why for pattern, why in SKIPPED[kind].items() if re.fullmatch(pattern, name)), "")


def their_name(backbone: CavMae, kind: Kind, key: str) -> str | None:
    """What a checkpoint of this type calls our tensor ``key``; None for what it never has."""
    name = official_name(key, backbone.form)
    return mae_name(name, backbone.depth) if kind == "mae" else name


def our_layout(backbone: CavMae, kind: Kind, key: str, value: Tensor) -> Tensor:
    """A tensor of theirs in the shape and order of our tensor ``key``."""
    return from_official(backbone, key, from_mae(backbone, key, value) if kind == "mae" else value)


def official_name(key: str, form: str) -> str:
    """What the official checkpoints of this form call our tensor ``key``."""
    starts = dict(ELSEWHERE)
    for kind in ("audio", "video"):
        for ours, theirs in (STREAM | {"head.": HEAD[form]}).items():
            starts[f"{kind}.{ours}"] = theirs.format(a=kind[0], audio=kind)
    for ours, theirs in starts.items():
        if key == ours or (ours.endswith(".") and key.startswith(ours)):
            key = theirs + key.removeprefix(ours)
            break
    for ours, theirs in NORMS.items():
        key = key.replace(ours, theirs)
    return key


def mae_name(official: str, depth: int) -> str | None:
    """The tensor of an MAE that the authors take for an official one; both modalities get the first ``depth`` blocks.

    None for what MAE lacks: positions of audio, and tokens that say which modality it is.
    """
    if NOT_IN_MAE.fullmatch(official):
        return None
    name = re.sub(r"_[av](?=\.|$)", "", official).removeprefix("inter_")
    name = re.sub(r"^mae_score_(audio|video)\.decoder", "decoder_pred", name)
    return re.sub(r"^blocks_u\.(\d+)", lambda block: f"blocks.{depth + int(block[1])}", name)


def strip(state: State) -> dict[str, Tensor]:
    """The state without the prefixes of wrappers: ``module.``, ``backbone.transformer.``."""
    return {key.removeprefix("module.").removeprefix("backbone.transformer."): v for key, v in state.items()}


def from_mae(backbone: CavMae, key: str, value: Tensor) -> Tensor:
    """A tensor of MAE as the authors lay it out for our parameter ``key``.

    Pictures have a class token, which is dropped, and one frame; audio has one channel, and its head the
    first of the rows of the head for pictures.
    """
    if key.endswith("table") and value.ndim == 3:
        return repeat(value[:, 1:], "1 n d -> 1 (t n) d", t=backbone.frames)
    if key == "audio.embed.weight" and value.ndim == 4:
        return value.sum(1, keepdim=True)
    return value[: backbone.patch**2] if key.startswith("audio.head.") else value


def from_official(backbone: CavMae, key: str, value: Tensor) -> Tensor:
    """An official tensor in our shape and order.

    Convolutions become linear layers on a patch's pixels. Official CAV-MAE transposes its spectrograms: it
    counts audio patches, and what is inside of them, frequency first; we count time first.
    """
    grid, patch = backbone.grid, backbone.patch
    frequency_first = backbone.form == "cav-mae" and key.startswith("audio.")
    if key.endswith(".embed.weight") and value.ndim == 4:
        order = "d c f t -> d (t f c)" if frequency_first else "d c p q -> d (p q c)"
        return rearrange(value, order)
    if frequency_first and key.startswith("audio.head.") and value.shape[0] == patch**2:
        return rearrange(value, "(f t) ... -> (t f) ...", f=patch)
    if key.endswith("table") and value.ndim == 3:
        if frequency_first and value.shape[1] == grid.audio:
            value = rearrange(value, "b (f t) d -> b (t f) d", f=grid.freqs)
        return value.squeeze(0)
    return value.flatten() if value.shape[:2] == (1, 1) else value
