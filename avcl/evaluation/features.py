"""Frozen features of a scenario's clips: read in order, in batches, without gradient."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip
from avcl.errors import BadClip, UserError
from avcl.evaluation.protocol import Frozen
from avcl.scenario import Split, augmenting, windowing
from avcl.training.loader import Loader
from avcl.training.loading import Collate, check_items

log = logging.getLogger(__name__)

MOST_BAD = 0.1
"""Share of the clips that may be unusable; they are left out and named in the log."""

MASKS = 0x5A  # a stream of random numbers apart from the augmentation's

Kind = Literal["joint", "audio", "video", "unimodal"]
"""Of the joint pass; of one modality alone; of both alone, one behind the other."""


@dataclass(frozen=True)
class View:
    """Which form of every clip is read: as for evaluation, augmented as in a training epoch, or one window of several.

    ``epoch``: of the training whose augmentation is drawn · ``window (k, n)``: the k-th of n windows of a clip, evenly
    spread · ``mask``: what to do to each clip's log-mel after that, given its generator.
    """

    epoch: int | None = None
    window: tuple[int, int] | None = None
    mask: Callable[[Tensor, np.random.Generator], Tensor] | None = None


class Features(NamedTuple):
    """Of the N clips that can be used: ``values (N, D)``, ``label (N,)``, ``task (N,)``, ``number (N,)``."""

    values: Tensor
    label: Tensor
    task: Tensor
    number: Tensor


def all_clips(model: Frozen, split: Split) -> Dataset:
    """The clips of all tasks, in the order of the stream."""
    tasks = range(len(model.scenario.task_names))
    return ConcatDataset([model.scenario.clips(task, split) for task in tasks])


def chosen(clips: Any, most: int | None) -> list[int]:
    """Numbers of at most ``most`` of the clips, in order: a random choice, the same for every model; None for all."""
    size = len(clips)
    if most is None or most >= size:
        return list(range(size))
    return sorted(torch.randperm(size, generator=torch.Generator().manual_seed(size))[:most].tolist())


def items(model: Frozen, clips: Any, numbers: Sequence[int], most_bad: float = MOST_BAD) -> Iterator[dict[str, Tensor]]:
    """Batches of the items ``numbers`` of a data set, collated, on the model's device.

    A clip that cannot be used is left out and named in the log; UserError where more than the share ``most_bad`` are.
    """
    parts = [list(numbers[start : start + model.batch_size]) for start in range(0, len(numbers), model.batch_size)]
    loader = Loader(
        clips,
        batch_sampler=parts,
        collate_fn=Collate(),
        num_workers=model.workers,
        generator=torch.Generator(),  # its own: making a loader never advances torch's
    )
    bad = 0
    for found, refused in loader:
        for fault in refused:
            log.warning("skipped %s", fault)
        bad += len(refused)
        if bad > most_bad * len(numbers):
            told = f"{bad} of {len(numbers)} clips cannot be used; the last: {refused[-1]}"
            raise UserError(f"scenario {model.scenario.name!r}: {told}; look at them with `avcl data check`")
        if isinstance(found, UserError):
            raise found
        if found is not None:
            yield {key: value.to(model.device) for key, value in found.items()}


def read(
    model: Frozen,
    clips: Any,
    view: View = View(),
    numbers: Sequence[int] | None = None,
    most_bad: float = MOST_BAD,
) -> Iterator[tuple[Tensor, Clip]]:
    """Batches of the clips ``numbers``, all by default: (numbers (b,), whole clips on the model's device)."""
    viewed = Viewed(clips, view, model.seed)
    for found in items(model, viewed, range(len(clips)) if numbers is None else numbers, most_bad):
        yield found["number"].cpu(), cut(model.backbone, found)


def cut(backbone: Backbone, found: Mapping[str, Tensor]) -> Clip:
    """Collated items as whole clips for the backbone; UserError where they do not fit it."""
    check_items(found, backbone.grid.shape(backbone.patch))
    dtype = next(backbone.parameters()).dtype
    about = {key: found.get(key) for key in ("index", "label", "task")}
    return Clip.cut(found["frames"].to(dtype), found["mel"].to(dtype), backbone.patch, **about)


def features(
    model: Frozen,
    clips: Any,
    kind: Kind = "joint",
    view: View = View(),
    numbers: Sequence[int] | None = None,
) -> Features:
    """One row of float32 on the CPU for each clip that can be used."""
    found: list[tuple[Tensor, ...]] = []
    for number, clip in read(model, clips, view, numbers):
        found.append((pooled(model.backbone, clip, kind).float().cpu(), clip.label.cpu(), clip.task.cpu(), number))
    if not found:
        raise UserError(f"scenario {model.scenario.name!r}: no clip can be used")
    return Features(*(torch.cat(column) for column in zip(*found, strict=True)))


@torch.no_grad()
def pooled(backbone: Backbone, clip: Clip, kind: Kind = "joint") -> Tensor:
    """Mean-pooled features of clips, whole ones or some of their patches.

    ``joint``: mean of the normed joint audio tokens beside the mean of the normed joint video tokens, (B, 2 * D) ·
    ``unimodal``: the embeddings of each modality alone, audio beside video, (B, 2 * D) · ``audio``, ``video``: one of
    the two, (B, D).
    """
    if kind != "joint":
        audio, video = backbone.embed(clip)
        return {"audio": audio, "video": video}.get(kind, torch.cat([audio, video], dim=1))
    norm = getattr(backbone, "norm", None) or nn.Identity()  # a backbone of another family may end without
    audio, video = backbone.tokens(clip)
    return torch.cat([norm(audio).mean(1), norm(video).mean(1)], dim=1)


@dataclass
class Viewed(Dataset):
    """Clips in one of their forms, each with its ``number``; an error comes out in an item's place."""

    clips: Any
    view: View
    seed: int

    def __getitem__(self, number: int) -> Any:
        view = self.view
        with contextlib.ExitStack() as around:
            if view.epoch is not None:
                around.enter_context(augmenting(self.seed, view.epoch))
            if view.window is not None:
                around.enter_context(windowing(*view.window))
            try:
                item = self.clips[number]
            except (BadClip, UserError) as error:
                return error
        if view.mask is not None:
            draw = np.random.default_rng((self.seed, view.epoch or 0, int(item["index"]), MASKS))
            item = {**item, "mel": view.mask(item["mel"], draw)}
        return {**item, "number": number}
