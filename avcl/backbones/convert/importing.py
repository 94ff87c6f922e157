"""Other people's weights in a backbone of ours, and what became of every tensor of theirs and of ours."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from avcl.backbones.cavmae import FORMS, SIZES, CavMae
from avcl.backbones.convert.names import MATCHING, UNUSED, from_mae, from_official, mae_name, official_name, strip
from avcl.backbones.convert.read import read_checkpoint
from avcl.backbones.hub import locate
from avcl.backbones.weights import State, load_state, save_weights
from avcl.clip import Shape
from avcl.errors import UserError
from avcl.settings import build, check

Kind = Literal["mae", "cav-mae", "stella"]

EMBED_VIDEO = "patch_embed_v.proj.weight"
MARKS: dict[Kind, str] = {
    "stella": "inter_pos_embed_a",
    "cav-mae": EMBED_VIDEO,
    "mae": "patch_embed.proj.weight",
}
"""What is in every checkpoint of a kind, and in none of the kinds after it."""

LEFT_OUT: dict[Kind, dict[str, str]] = {
    "stella": {r"vacls_classifier\..+": "a classifier's head"},
    "cav-mae": {UNUSED.pattern: "nothing reads it", r"mlp_head\..+": "a classifier's head"},
    "mae": {r"cls_token": "the backbone has no class token", r"head\..+": "a classifier's head"},
}
"""Patterns of names that are not taken over, and why."""

DECODER = re.compile(r"decoder_|mask_tokens\.|(audio|video)\.(decoder_|head\.)")


@dataclass(frozen=True)
class Import:
    """A backbone filled from somebody's checkpoint.

    ``copied``: their name for each of our tensors · ``fresh``: those of ours that are in no file, and begin as
    in any new backbone · ``left``: why each of theirs was left out · ``matching``: STELLA's matching module
    under its official names · ``beside``: what else was in the file.
    """

    source: str
    kind: Kind
    backbone: CavMae
    copied: Mapping[str, str]
    fresh: tuple[str, ...]
    left: Mapping[str, str]
    matching: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write a file that ``weights`` of a run and ``from_pretrained`` take."""
        save_weights(path, self.backbone, {"matching": self.matching} if self.matching else None)

    def table(self) -> Table:
        """What became of every tensor, for people."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("in the file", overflow="fold")
        table.add_column("tensors", justify="right")
        table.add_column("what became of it", overflow="fold")
        for part, count, fate in self.rows():
            table.add_row(part or "-", f"{count:,}" if count else "-", fate)
        return table

    def rows(self) -> Iterator[tuple[str, int, str]]:
        """What they call a group of tensors, how many there are, and what became of them."""
        targets: dict[str, set[str]] = {}
        for ours, theirs in self.copied.items():
            targets.setdefault(theirs, set()).add(_place(ours)[0])
        became = {name: ", ".join(sorted(groups)) for name, groups in targets.items()}
        yield from _grouped(became | {name: f"left out: {why}" for name, why in self.left.items()})
        if self.matching:
            fate = "matching (the authors' pooling is strategy.official_pooling)"
            yield MATCHING.rstrip("."), len(self.matching), fate
        if self.beside:
            yield ", ".join(self.beside), 0, "left out: no part of the model"
        if self.fresh:
            parts = _grouped(dict.fromkeys(self.fresh, ""))
            yield "", len(self.fresh), "new: " + ", ".join(part for part, _, _ in parts)

    def usage(self) -> str:
        """The settings of a run that these weights fit."""
        own = self.backbone.settings()
        usual = {field.name: field.default for field in dataclasses.fields(CavMae)}
        usual |= FORMS[self.backbone.form] | SIZES[self.backbone.size]
        backbone = {key: value for key, value in own.items() if value != usual[key] and key not in Shape._fields}
        told = "".join(f", {key}: {value}" for key, value in backbone.items())
        frames, height, width, times, mels = (own[key] for key in Shape._fields)
        clips = f"clips of {frames} x {height} x {width} pixels and {times} x {mels} of log-mel"
        return f"backbone: {{name: cav-mae{told}}}, and {clips}"

    def summary(self) -> str:
        """The numbers, in one line."""
        read, taken = len({*self.copied.values()}), len(self.matching)
        kept = f", {taken} for the matching module" if taken else ""
        return (
            f"{self.source}: {self.kind}, {read + taken + len(self.left)} tensors: {read} fill {len(self.copied)} "
            f"of the backbone{kept}, {len(self.left)} left out; {len(self.fresh)} of the backbone are new"
        )


def import_weights(
    source: str | Path, kind: Kind | None = None, settings: Mapping[str, Any] | None = None, zeros: bool = False
) -> Import:
    """A backbone filled from a checkpoint of MAE (or another plain ViT), of CAV-MAE, or of STELLA's authors.

    ``source``: a file, a folder with a ``model.safetensors``, ``owner/name`` on the Hugging Face Hub, or
    timm's name of a model · ``kind``: what it is, where its names do not tell · ``settings``: of the
    backbone, beside those that the tensors tell.

    An MAE becomes the form ``stella``, or ``cav-mae`` where ``settings`` say so, as the authors of both do it:
    its last blocks are the fusion blocks, both modalities get the others. What sound needs and an MAE has not
    (three tables of positions, and the tokens of both modalities) begins as in any new backbone; ``zeros``
    begins it at zero, as STELLA's authors' tool does. Norms have an epsilon of 1e-5, as theirs; MAE has 1e-6.
    """
    name = str(source)
    bare = "/" not in name and not Path(name).exists() and Path(name).suffix not in (".pth", ".pt", ".safetensors")
    state, beside = read_checkpoint(locate(f"timm/{name}" if bare else source))
    state = strip(state)
    kind = kind or _recognised(state, name)
    faults = [f"{key} {fault}" for key, value in state.items() if not _why_not(key, kind) and (fault := _fault(value))]
    if faults:
        raise UserError(f"{name}: holds what cannot be weights: {_some(faults)}")
    found = _settings(state, kind, check(CavMae, settings or {}), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build(CavMae, found)
    return fill(backbone, state, kind, name, zeros=zeros, beside=beside)


def fill(
    backbone: CavMae, state: State, kind: Kind, source: str, *, zeros: bool = False, beside: tuple[str, ...] = ()
) -> Import:
    """Fill a backbone of the right form and size; UserError names what is missing, unexpected or misshapen.

    A decoder may be missing, but only the whole of it.
    """
    if kind != "mae" and kind != backbone.form:
        raise UserError(f"{source}: is of the form {kind!r}, but the backbone has form = {backbone.form!r}")
    if zeros and (kind, backbone.form) != ("mae", "stella"):
        raise UserError(f"{source}: zeros are for an MAE in the form 'stella', whose tables learn; leave out --zeros")
    state, own = strip(state), backbone.state_dict()
    matching = {name.removeprefix(MATCHING): state.pop(name) for name in list(state) if name.startswith(MATCHING)}
    names = {key: _their_name(backbone, kind, key) for key in own}
    copied = {key: name for key, name in names.items() if name in state}
    fresh = tuple(key for key in own if key not in copied)
    used = {*copied.values()}
    left = {name: _why_not(name, kind) for name in state if name not in used}
    decodes = any(DECODER.match(key) for key in copied)
    missing = [names[key] for key in fresh if names[key] and (decodes or not DECODER.match(key))]
    wrong = [f"missing {name}" for name in dict.fromkeys(missing)]
    wrong += [f"unexpected {name}" for name, why in left.items() if not why]
    if wrong:
        raise UserError(f"{source}: not the weights of a {kind} model: {_some(wrong)}")
    values = {key: _as_ours(backbone, kind, key, state[name]) for key, name in copied.items()}
    values |= {key: torch.zeros_like(own[key]) if zeros and names[key] is None else own[key] for key in fresh}
    load_state(backbone, values, source)
    return Import(source, kind, backbone, copied, fresh, left, matching, beside)


def _fault(value: Tensor) -> str:
    """Why these cannot be weights; empty where they can."""
    if not value.is_floating_point():
        return f"is of {value.dtype}"
    return "" if bool(torch.isfinite(value).all()) else "is not finite"


def _their_name(backbone: CavMae, kind: Kind, key: str) -> str | None:
    """What they call our tensor ``key``; None for what they never have."""
    name = official_name(key, backbone.form)
    return mae_name(name, backbone.depth) if kind == "mae" else name


def _as_ours(backbone: CavMae, kind: Kind, key: str, value: Tensor) -> Tensor:
    """Their tensor as we lay it out."""
    return from_official(backbone, key, from_mae(backbone, key, value) if kind == "mae" else value)


def _recognised(state: State, source: str) -> Kind:
    for kind, mark in MARKS.items():
        if mark in state:
            return kind
    raise UserError(
        f"{source}: has no tensor by which to know an MAE, CAV-MAE or STELLA checkpoint, but {_some(state)}; "
        "allowed are those of the authors, and timm's for a plain ViT"
    )


def _settings(state: State, kind: Kind, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The settings of the backbone: those given, and what the tensors tell of the others."""
    form = given.get("form", "stella") if kind == "mae" else kind
    embed, table = ("patch_embed.proj.weight", "pos_embed") if kind == "mae" else (EMBED_VIDEO, "pos_embed_v")
    for name, dimensions in ((embed, 4), (table, 3)):
        if name not in state or state[name].ndim != dimensions:
            raise UserError(f"{source}: not the weights of a {kind} model: missing {name} of {dimensions} dimensions")
    dim, _, patch, _ = state[embed].shape
    found = {"form": form, "size": "small" if dim == SIZES["small"]["dim"] else "base", "dim": dim, "patch": patch}
    if kind == "mae":
        fusion, blocks = given.get("fusion_depth", FORMS[form]["fusion_depth"]), _count(state, "blocks")
        if blocks <= fusion:
            raise UserError(f"{source}: has {blocks} blocks, and the last {fusion} are to fuse: more are needed")
        found |= {"depth": blocks - fusion, "fusion_depth": fusion}
    else:
        found |= {"depth": _count(state, "blocks_v"), "fusion_depth": _count(state, "blocks_u")}
    widths = {"heads": (dim, 64)}
    if "decoder_embed.weight" in state:
        decoder_dim = len(state["decoder_embed.weight"])
        widths["decoder_heads"] = (decoder_dim, 32)
        found |= {"decoder_dim": decoder_dim, "decoder_depth": _count(state, "decoder_blocks")}
    for key, (width, each) in widths.items():
        if width % each and key not in given:
            raise UserError(f"{source}: no tensor tells how many {key} a width of {width} has: give --set {key}=N")
        found[key] = width // each
    if form == "cav-mae":
        found["frames"] = 1
    if kind != "stella":  # the table is of one square picture; MAE's class token does not fill another row
        found |= dict.fromkeys(("height", "width"), math.isqrt(state[table].shape[1]) * patch)
    return found | dict(given)


def _count(state: State, blocks: str) -> int:
    """How many blocks there are of this name."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{blocks}.")})


def _why_not(name: str, kind: Kind) -> str:
    """Why a tensor is not taken over; empty where there is no reason."""
    return next((why for pattern, why in LEFT_OUT[kind].items() if re.fullmatch(pattern, name)), "")


def _place(name: str) -> tuple[str, str | None]:
    """What a tensor is part of, and the number of its block: ``("blocks", "3")`` of ``blocks.3.norm1.bias``."""
    part, number = re.fullmatch(r"(.+?)(?:\.(\d+)\..+|\.weight|\.bias)?", name).groups()  # type: ignore[union-attr]
    return part, number


def _grouped(became: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    """What became of each tensor, with one row for all of one part that became the same."""
    groups: dict[tuple[str, str], list[int | None]] = {}
    for name, fate in became.items():
        part, number = _place(name)
        groups.setdefault((part, fate), []).append(None if number is None else int(number))
    for (part, fate), numbers in groups.items():
        blocks = sorted({number for number in numbers if number is not None})
        several = f".{blocks[0]}-{blocks[-1]}" if len(blocks) > 1 else "".join(f".{number}" for number in blocks)
        yield part + several, len(numbers), fate


def _some(names: Iterable[str]) -> str:
    """The first few of many."""
    first = list(names)
    return ", ".join(first[:4]) + (f" and {len(first) - 4} more" if len(first) > 4 else "")
