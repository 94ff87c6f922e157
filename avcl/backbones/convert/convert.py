"""Converts a third-party checkpoint: fills a backbone of ours, and accounts for every tensor of theirs and of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from avcl.backbones.cavmae import FORMS, SIZES, CavMae
from avcl.backbones.convert.detect import Kind, detected_kind, detected_settings
from avcl.backbones.convert.names import MATCHING, our_layout, reason_to_skip, strip, their_name
from avcl.backbones.convert.read import read_checkpoint
from avcl.backbones.hub import locate
from avcl.backbones.weights import State, first_few, load_state, save_weights
from avcl.clip import Shape
from avcl.data.preprocessing import Preprocessing
from avcl.errors import UserError
from avcl.settings import build, validate

DECODER = re.compile(r"decoder_|mask_tokens\.|(audio|video)\.(decoder_|head\.)")


@dataclass(frozen=True)
class Converted:
    """A backbone filled from a third-party checkpoint.

    ``copied``: their name for each of our tensors · ``initialized``: our tensors that the checkpoint lacks ·
    ``skipped``: why each of theirs was left out · ``matching``: STELLA's matching module under its official
    names · ``beside``: what else was in the file.
    """

    source: str
    kind: Kind
    backbone: CavMae
    copied: Mapping[str, str]
    initialized: tuple[str, ...]
    skipped: Mapping[str, str]
    matching: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write a weights file, for the setting ``weights`` of a run or for ``from_pretrained``."""
        save_weights(path, self.backbone, {"matching": self.matching} if self.matching else None)

    def table(self) -> Table:
        """The rows as a table."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("checkpoint", overflow="fold")
        table.add_column("tensors", justify="right")
        table.add_column("converted to", overflow="fold")
        for part, count, fate in self.rows():
            table.add_row(part or "-", f"{count:,}" if count else "-", fate)
        return table

    def rows(self) -> Iterator[tuple[str, int, str]]:
        """Their name of a group of tensors, how many there are, and what they were converted to."""
        targets: dict[str, set[str]] = {}
        for ours, theirs in self.copied.items():
            targets.setdefault(theirs, set()).add(_place(ours)[0])
        became = {name: ", ".join(sorted(groups)) for name, groups in targets.items()}
        yield from _grouped(became | {name: f"skipped: {why}" for name, why in self.skipped.items()})
        if self.matching:
            fate = "matching (the authors' pooling is strategy.official_pooling)"
            yield MATCHING.rstrip("."), len(self.matching), fate
        if self.beside:
            yield ", ".join(self.beside), 0, "skipped: not part of the model"
        if self.initialized:
            parts = _grouped(dict.fromkeys(self.initialized, ""))
            yield "", len(self.initialized), "newly initialized: " + ", ".join(part for part, _, _ in parts)

    def usage(self) -> str:
        """The settings of a run that these weights fit."""
        own = self.backbone.settings()
        usual = {field.name: field.default for field in dataclasses.fields(CavMae)}
        usual |= FORMS[self.backbone.form] | SIZES[self.backbone.size]
        backbone = {key: value for key, value in own.items() if value != usual[key] and key not in Shape._fields}
        changed = "".join(f", {key}: {value}" for key, value in backbone.items())
        frames, height, width, times, mels = (own[key] for key in Shape._fields)
        clips = f"clips of {frames} x {height} x {width} pixels and {times} x {mels} of log-mel"
        return f"backbone: {{name: cav-mae{changed}}}, and {clips}"

    def summary(self) -> str:
        """The numbers, and the preprocessing that is assumed."""
        read, taken = len({*self.copied.values()}), len(self.matching)
        matching = f", {taken} for the matching module" if taken else ""
        return (
            f"{self.source}: {self.kind}, {read + taken + len(self.skipped)} tensors: {read} fill {len(self.copied)} "
            f"of the backbone{matching}, {len(self.skipped)} skipped; {len(self.initialized)} newly initialized\n"
            f"preprocessing as published: {Preprocessing(**self.backbone.preprocessing or {})}"
        )


def convert_checkpoint(
    source: str | Path, kind: Kind | None = None, settings: Mapping[str, Any] | None = None, zero_init: bool = False
) -> Converted:
    """Convert a checkpoint of MAE (or another plain ViT), of CAV-MAE, or of STELLA's authors into a backbone.

    ``source``: a file, a folder with a ``model.safetensors``, ``owner/name`` on the Hugging Face Hub, or
    timm's name of a model · ``kind``: its type, detected if None · ``settings``: of the backbone, beside
    those that are detected.

    An MAE becomes the form ``stella``, or ``cav-mae`` where ``settings`` say so, as the authors of both do it:
    its last blocks are the fusion blocks, both modalities get the others. What audio needs and an MAE lacks
    (three tables of positions, and the tokens of both modalities) is initialized as in any new backbone;
    ``zero_init`` zero-initializes it, as STELLA's authors' tool does. Norms have an epsilon of 1e-5, as
    theirs; MAE has 1e-6.
    """
    name = str(source)
    bare = "/" not in name and not Path(name).exists() and Path(name).suffix not in (".pth", ".pt", ".safetensors")
    state, beside = read_checkpoint(locate(f"timm/{name}" if bare else source))
    state = strip(state)
    kind = kind or detected_kind(state, name)
    faults = [
        f"{key} {fault}" for key, value in state.items() if not reason_to_skip(key, kind) and (fault := _fault(value))
    ]
    if faults:
        raise UserError(f"{name}: holds what cannot be weights: {first_few(faults)}")
    found = detected_settings(state, kind, validate(CavMae, settings or {}), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build(CavMae, found)
    return fill(backbone, state, kind, name, zero_init=zero_init, beside=beside)


def fill(
    backbone: CavMae, state: State, kind: Kind, source: str, *, zero_init: bool = False, beside: tuple[str, ...] = ()
) -> Converted:
    """Fill a backbone of the right form and size; UserError names what is missing, unexpected or misshapen.

    A decoder may be missing, but only the whole of it.
    """
    if kind != "mae" and kind != backbone.form:
        raise UserError(f"{source}: is of the form {kind!r}, but the backbone has form = {backbone.form!r}")
    if zero_init and (kind, backbone.form) != ("mae", "stella"):
        raise UserError(f"{source}: --zero-init is for an MAE in the form 'stella', whose tables learn; leave it out")
    state, own = strip(state), backbone.state_dict()
    matching = {name.removeprefix(MATCHING): state.pop(name) for name in list(state) if name.startswith(MATCHING)}
    names = {key: their_name(backbone, kind, key) for key in own}
    copied = {key: name for key, name in names.items() if name in state}
    initialized = tuple(key for key in own if key not in copied)
    used = {*copied.values()}
    skipped = {name: reason_to_skip(name, kind) for name in state if name not in used}
    decodes = any(DECODER.match(key) for key in copied)
    missing = [names[key] for key in initialized if names[key] and (decodes or not DECODER.match(key))]
    wrong = [f"missing {name}" for name in dict.fromkeys(missing)]
    wrong += [f"unexpected {name}" for name, why in skipped.items() if not why]
    if wrong:
        raise UserError(f"{source}: not the weights of a {kind} model: {first_few(wrong)}")
    values = {key: our_layout(backbone, kind, key, state[name]) for key, name in copied.items()}
    values |= {key: torch.zeros_like(own[key]) if zero_init and names[key] is None else own[key] for key in initialized}
    load_state(backbone, values, source)
    backbone.preprocessing = Preprocessing.published(backbone.grid.shape(backbone.patch)).settings()
    return Converted(source, kind, backbone, copied, initialized, skipped, matching, beside)


def _fault(value: Tensor) -> str:
    """Why these cannot be weights; empty where they can."""
    if not value.is_floating_point():
        return f"is of {value.dtype}"
    return "" if bool(torch.isfinite(value).all()) else "is not finite"


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
