"""What a third-party checkpoint is: its type, and the settings of the backbone that it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from avcl.backbones.cavmae import FORMS, SIZES
from avcl.backbones.weights import State, first_few
from avcl.errors import UserError

Kind = Literal["mae", "cav-mae", "stella"]

EMBED_VIDEO = "patch_embed_v.proj.weight"
MARKS: dict[Kind, str] = {"stella": "inter_pos_embed_a", "cav-mae": EMBED_VIDEO, "mae": "patch_embed.proj.weight"}
"""What is in every checkpoint of a type, and in none of the types after it."""


def detected_kind(state: State, source: str) -> Kind:
    """The type of a checkpoint, by the names of its tensors; UserError where they are of none that is known."""
    for kind, mark in MARKS.items():
        if mark in state:
            return kind
    raise UserError(
        f"{source}: not detected as an MAE, CAV-MAE or STELLA checkpoint: holds {first_few(state)}; "
        "must be one of the authors', or timm's of a plain ViT"
    )


def detected_settings(state: State, kind: Kind, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings of the backbone: those given, the others as the shapes of the tensors tell."""
    form = given.get("form", "stella") if kind == "mae" else kind
    embed, table = (MARKS["mae"], "pos_embed") if kind == "mae" else (EMBED_VIDEO, "pos_embed_v")
    for name, dimensions in ((embed, 4), (table, 3)):
        if name not in state or state[name].ndim != dimensions:
            raise UserError(f"{source}: not the weights of a {kind} model: missing {name} of {dimensions} dimensions")
    dim, _, patch, _ = state[embed].shape
    found = {"form": form, "size": "small" if dim == SIZES["small"]["dim"] else "base", "dim": dim, "patch": patch}
    if kind == "mae":
        fusion, blocks = given.get("fusion_depth", FORMS[form]["fusion_depth"]), _depth(state, "blocks")
        if blocks <= fusion:
            raise UserError(f"{source}: has {blocks} blocks: must have more than fusion_depth = {fusion}")
        found |= {"depth": blocks - fusion, "fusion_depth": fusion}
    else:
        found |= {"depth": _depth(state, "blocks_v"), "fusion_depth": _depth(state, "blocks_u")}
    widths = {"heads": (dim, 64)}
    if "decoder_embed.weight" in state:
        decoder_dim = len(state["decoder_embed.weight"])
        widths["decoder_heads"] = (decoder_dim, 32)
        found |= {"decoder_dim": decoder_dim, "decoder_depth": _depth(state, "decoder_blocks")}
    for key, (width, each) in widths.items():
        if width % each and key not in given:
            raise UserError(f"{source}: {key} cannot be detected for a width of {width}: give --set {key}=N")
        found[key] = width // each
    if form == "cav-mae":
        found["frames"] = 1
    if kind != "stella":  # the table is of one square picture; MAE's class token does not fill another row
        found |= dict.fromkeys(("height", "width"), math.isqrt(state[table].shape[1]) * patch)
    return found | dict(given)


def _depth(state: State, blocks: str) -> int:
    """How many blocks there are of this name."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{blocks}.")})
