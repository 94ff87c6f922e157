"""Audio-visual event localization: which event, or none, is in each segment of a clip (the paper's AVE).

Tian et al., *Audio-Visual Event Localization in Unconstrained Videos*, ECCV 2018, arXiv 1803.08842: data and segment
accuracy. Hyper-parameters of the STELLA authors' code, which lacks the head; ours is the one of LAVISH (CVPR 2023,
arXiv 2212.07983), a hidden layer of 512 on each segment's pooled features.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import ConcatDataset, Dataset

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip
from avcl.data.segments import BACKGROUND
from avcl.errors import BadClip, UserError
from avcl.evaluation.accuracy import places
from avcl.evaluation.features import chosen, cut, items, pooled
from avcl.evaluation.head import HeadEvaluation, best_epoch
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.hookspecs import hookimpl
from avcl.scenario import Split, truth_of


@dataclass(kw_only=True)
class EventLocalization(HeadEvaluation):
    """Event localization: the class of the event in each segment, or background, from frozen features of the segment.

    ``accuracy`` is that of all segments, as published; beside it stands that of always saying the most frequent label
    of the training clips. ``balanced_accuracy`` is the mean over labels of the share of their segments that are found:
    chance is 1 over their number, whatever is said most often. The best epoch is chosen by accuracy.

    A data set may have segments of its own, as AVE's of a second each; of others, whose truth has an interval, the
    patches of a clip are divided in time, and a segment has the event if it sounds for half of it.

    Args:
        segments: Segments of a clip, where a data set has none of its own.
        hidden: Width of the head's hidden layer.
        train_clips: Training clips at most, a random choice that is always the same; null for all.
    """

    name: ClassVar[str] = "event_localization"
    suits: ClassVar[tuple[str, ...]] = ("ave", "synthetic")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"synthetic": {"train_clips": 1024}}

    batch_size: PositiveInt = 12
    lr: PositiveFloat = 1e-3
    segments: PositiveInt = 10
    hidden: PositiveInt = 512
    train_clips: PositiveInt | None = None

    def evaluate(self, model: Frozen) -> Scores:
        """Train the head on the segments of the training clips, score it on those to evaluate on."""
        values, event = self._read(model, "train", self.train_clips)
        asked, truth = self._read(model, "eval", None)
        labels = event.unique()
        if not (labels != BACKGROUND).any():
            raise self.unsuited(model.scenario, "event in any training segment")
        target, _ = places(labels, event)
        wanted, known = places(labels, truth)
        head = nn.Sequential(
            nn.Linear(values.shape[-1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, len(labels))
        ).to(model.device)

        def loss(rows: Tensor, epoch: int) -> Tensor:
            logits = head(values[rows].to(model.device)).flatten(0, 1)
            return cross_entropy(logits, target[rows].flatten().to(model.device), label_smoothing=self.label_smoothing)

        def said() -> Tensor:
            return head(asked.to(model.device)).argmax(-1).cpu()

        history = self.fit(
            head, len(values), loss, lambda: segment_accuracy(said(), wanted, known)["accuracy"], model.seed
        )
        with torch.no_grad():
            found = said()
        frequent = torch.full_like(found, int(target.flatten().bincount().argmax()))
        return Scores(
            scores=segment_accuracy(found, wanted, known),
            chance={
                "accuracy": segment_accuracy(frequent, wanted, known)["accuracy"],
                "balanced_accuracy": 100 / len(truth.unique()),
            },
            clips=len(asked),
            details={
                "segments": asked.shape[1],
                "labels": len(labels),
                "training_clips": len(values),
                "background": float(100 * (truth == BACKGROUND).double().mean()),
                **best_epoch(history),
            },
        )

    def _read(self, model: Frozen, split: Split, most: int | None) -> tuple[Tensor, Tensor]:
        """Features (N, S, D) and labels (N, S) of the segments of a split's clips, over all tasks."""
        scenario, grid = model.scenario, model.backbone.grid
        data = [scenario.clips(task, split) for task in range(len(scenario.task_names))]
        own = [hasattr(part, "segments") for part in data]
        if not all(mine or truth_of(part) for mine, part in zip(own, data, strict=True)):
            raise self.unsuited(scenario, "event in time")
        if not all(own) and self.segments > grid.times:
            told = f"must be at most {grid.times}, the audio patches in time of this model"
            raise UserError(f"{self.name}.segments: invalid value {self.segments}: {told}")
        whole: Any = ConcatDataset(
            [Seconds(part) if mine else Divided(part) for mine, part in zip(own, data, strict=True)]
        )
        values, event = [], []
        for found in items(model, whole, chosen(whole, most)):
            if "event" in found:
                values.append(_of_seconds(model.backbone, found))
                event.append(found["event"].cpu())
            else:
                values.append(_of_patches(model.backbone, cut(model.backbone, found), self.segments))
                spans = [span * model.backbone.patch for span in bounds(grid.times, self.segments)]
                event.append(events(found["label"].cpu(), found["interval"].cpu(), torch.tensor(spans)))
        if not values:
            raise UserError(f"{self.name}: scenario {scenario.name!r} has no clip that can be used for {split}")
        return torch.cat(values), torch.cat(event)


def segment_accuracy(said: Tensor, wanted: Tensor, known: Tensor | None = None) -> dict[str, float]:
    """Shares of segments whose label is right, percent: of all, and the mean over the labels that occur.

    ``said``, ``wanted (N, S)``; those that are not ``known`` to the head count as wrong.
    """
    right = said == wanted if known is None else (said == wanted) & known
    occurring = wanted if known is None else torch.where(known, wanted, -1 - wanted)
    recalls = [right[occurring == label].double().mean() for label in occurring.unique()]
    return {
        "accuracy": float(100 * right.double().mean()),
        "balanced_accuracy": float(100 * torch.stack(recalls).mean()),
    }


def bounds(length: int, parts: int) -> list[int]:
    """Where each of ``parts`` equal parts of ``length`` begins, and the end: integers as even as they can be."""
    return [round(length * part / parts) for part in range(parts + 1)]


def events(label: Tensor, interval: Tensor, spans: Tensor) -> Tensor:
    """The label of each segment (B, S): the clip's where its sound fills half of it, else BACKGROUND.

    ``label (B,)`` · ``interval (B, 2)``: first mel frame of the sound and the first after it · ``spans (S + 1,)``: the
    mel frames where segments begin, and their end.
    """
    start, stop = interval[:, :1], interval[:, 1:]
    heard = torch.minimum(stop, spans[None, 1:]) - torch.maximum(start, spans[None, :-1])
    return torch.where(2 * heard >= spans.diff()[None], label[:, None], BACKGROUND)


@torch.no_grad()
def _of_seconds(backbone: Backbone, found: Mapping[str, Tensor]) -> Tensor:
    """Features (B, S, D) of segments that are clips of their own; one pass for each place in the clip."""
    parts = [
        pooled(backbone, cut(backbone, {"frames": found["frames"][:, s], "mel": found["mel"][:, s]}))
        for s in range(found["event"].shape[1])
    ]
    return torch.stack(parts, dim=1).float().cpu()


@torch.no_grad()
def _of_patches(backbone: Backbone, clip: Clip, segments: int) -> Tensor:
    """Features (B, S, D) of parts of whole clips: their audio patches, and the frames that are shown meanwhile.

    A segment shorter than a frame has the frame that is shown in its middle.
    """
    grid, device = backbone.grid, clip.video.device
    times = torch.arange(grid.audio, device=device) // grid.freqs
    frames = torch.arange(grid.video, device=device) // (grid.rows * grid.cols)
    middles = (torch.arange(grid.frames, device=device) + 0.5) / grid.frames
    found, ends = [], bounds(grid.times, segments)
    for first, last in itertools.pairwise(ends):
        share = first / grid.times, last / grid.times
        shown = (share[0] <= middles) & (middles < share[1])
        shown[min(int((share[0] + share[1]) / 2 * grid.frames), grid.frames - 1)] = True
        video = shown[frames].nonzero().T.expand(len(clip), -1)
        audio = ((first <= times) & (times < last)).nonzero().T.expand(len(clip), -1)
        found.append(pooled(backbone, clip.take(video, audio)))
    return torch.stack(found, dim=1).float().cpu()


@dataclass
class Seconds(Dataset):
    """Items of a data set that has segments of its own."""

    clips: Any

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.clips.segments(number)._asdict()
        except (BadClip, UserError) as error:
            return error


@dataclass
class Divided(Dataset):
    """Items of a data set that knows the truth, each with the ``interval`` (2,) of its sound."""

    clips: Any

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> Any:
        truth = truth_of(self.clips)
        try:
            return {**self.clips[number], "interval": torch.tensor(truth(number).interval)}  # type: ignore[misc]
        except (BadClip, UserError) as error:
            return error


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [EventLocalization]
