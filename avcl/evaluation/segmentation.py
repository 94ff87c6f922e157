"""Audio-visual segmentation on a frozen model: a decoder on the features of its fusion blocks, scored as AVSBench does.

Zhou et al., *Audio-Visual Segmentation*, ECCV 2022, arXiv 2207.05042; on CAV-MAE as in Lee et al., *STELLA*, ICML 2024,
arXiv 2310.08204. For each clip::

    tokens   = fused tokens of audio and video, unmasked, without gradient
    features = inputs of the last layer of every fusion block's MLP, their video part
    logits   = decoder(features, mean of the audio tokens)          (decoder.py)
    loss     = binary cross-entropy on the first frame of a training clip; all frames are scored in evaluation

How we differ from the authors' code, which cannot run as it is: every parameter of the decoder is trained, masks are
cropped with their frames, and frames beyond those of the backbone are shown to it in a further part, so that all five
of AVSBench are scored. The best epoch is chosen by the mIoU of clips that are not scored: the scenario's validation
clips, or a tenth of its training clips. Learning rate and decay: the authors' (AdamW 5e-4, 5e-6, batch 48, 20 epochs,
3 of warm-up, cosine).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Subset

from avcl.clip import Clip
from avcl.errors import UserError
from avcl.evaluation.decoder import Decoder
from avcl.evaluation.features import View, all_clips, chosen, read
from avcl.evaluation.head import HeadEvaluation, best_epoch
from avcl.evaluation.mask_scores import MaskScores
from avcl.evaluation.masks import Centre, Part, by_frame, centre_box, centre_disc, masks_of
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.hookspecs import hookimpl
from avcl.scenario import truth_of

HELD_OUT = 10
"""One of so many training clips chooses the best epoch, where a scenario has no validation clips."""


class Dense(NamedTuple):
    """What the decoder gets of clips: ``video``, (B, V, F) for each fusion block, and ``audio (B, D)``."""

    video: list[Tensor]
    audio: Tensor


@torch.no_grad()
def dense(model: Frozen, clip: Clip) -> Dense:
    """Features of whole clips."""
    backbone = model.backbone
    encoded = backbone.encode(clip)
    norm = getattr(backbone, "norm", None) or nn.Identity()
    audio = norm(backbone.fuse(*encoded)[0]).mean(1)
    return Dense([video.float() for _, video in backbone.fusion_features(*encoded)], audio.float())


@dataclass(kw_only=True)
class Segmentation(HeadEvaluation):
    """Masks of what sounds: mIoU and F-score of a decoder with audio attention, in percent.

    Chance is the best box or disc in the middle of the frame, its size chosen on the training masks. ``f_score`` is
    AVSBench's with one clip at a time, as its test is published; ``f_score_fixed`` has one threshold for all clips.

    Args:
        width: Channels of the decoder; default: a third of the backbone's width (published: 256), at least 32.
        train_clips: Training clips at most, a random choice.
        picture: PNG file for a picture of some clips with their masks, and the predicted ones.
    """

    name: ClassVar[str] = "segmentation"
    suits: ClassVar[tuple[str, ...]] = ("avsbench", "synthetic")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "synthetic": {"epochs": 6, "batch_size": 32, "lr": 2e-3, "warmup": 1, "train_clips": 1024},
    }

    epochs: PositiveInt = 20
    warmup: NonNegativeInt = 3
    width: PositiveInt | None = None
    train_clips: PositiveInt | None = None
    picture: str | None = None

    def evaluate(self, model: Frozen) -> Scores:
        """Train the decoder on the training clips of all tasks, score it on their evaluation clips."""
        model = replace(model, batch_size=self.batch_size)  # so that the model's own cannot change a digit
        train, held_out, test = self._data(model)
        decoder = self.decoder(model)
        history = self.fit(
            decoder,
            len(train),
            lambda rows, epoch: first_frame_loss(decoder, model, train, rows.tolist(), epoch),
            lambda: predict(decoder, model, held_out).scores()["miou"],
            model.seed,
        )
        found = predict(decoder, model, test).scores()
        baselines = self._baselines(train, test)
        best = max(("centre_box", "centre_disc"), key=lambda name: baselines[name]["miou"])
        if self.picture:
            from avcl.evaluation.mask_pictures import draw

            title = "First frames: outlined the true mask (white), and the predicted one (orange)"
            draw(
                self.picture,
                test,
                lambda numbers: ((n, {"probability": p}) for n, p in probabilities(decoder, model, test, numbers)),
                title,
                outline=0.5,
            )
        return Scores(
            scores=found,
            chance={name: baselines[best][name] for name in found},
            clips=len(test),
            details={
                "baselines": baselines,
                "train_clips": len(train),
                "held_out_clips": len(held_out),
                "decoder_parameters": sum(p.numel() for p in decoder.parameters()),
                **best_epoch(history),
            },
        )

    def decoder(self, model: Frozen) -> Decoder:
        """A new decoder for the model's features, its weights drawn from torch's global generator."""
        backbone = model.backbone
        shape = backbone.grid.shape(backbone.patch)
        empty = {key: torch.zeros(1, *size, device=model.device) for key, size in shape.tensors.items()}
        dtype = next(backbone.parameters()).dtype
        features = dense(model, Clip.cut(**empty, patch=backbone.patch).to(dtype))
        width = self.width or max(32, backbone.dim // 3)
        hidden = features.video[0].shape[-1]
        made = Decoder(backbone.grid, len(features.video), hidden, features.audio.shape[-1], width)
        return made.to(model.device)

    def _data(self, model: Frozen) -> tuple[Any, Any, Any]:
        """Clips to train on, to choose the best epoch by, and to score; UserError where they have no masks."""
        train, test = all_clips(model, "train"), all_clips(model, "eval")
        if truth_of(train) is None or truth_of(test) is None:
            raise self.unsuited(model.scenario, "masks")
        numbers = chosen(train, self.train_clips)
        if (validation := model.scenario.validation_clips()) is not None:
            return Subset(train, numbers), validation, test
        if len(numbers) < 2:
            raise UserError(f"{self.name}: {len(numbers)} training clips: must be 2 or more, one to choose an epoch by")
        held = set(chosen(numbers, max(1, len(numbers) // HELD_OUT)))
        rest = [number for place, number in enumerate(numbers) if place not in held]
        return Subset(train, rest), Subset(train, [numbers[place] for place in sorted(held)]), test

    def _baselines(self, train: Any, test: Any) -> dict[str, dict[str, float]]:
        """Scores of masks that are the same for all clips; of the centred ones also their size."""
        height, width = test[0]["frames"].shape[-2:]
        centres = {"centre_box": Centre(centre_box, height, width), "centre_disc": Centre(centre_disc, height, width)}
        for number in range(len(train)):
            first = masks_of(train, [number]).mask[:, 0]
            for centre in centres.values():
                centre.add(first)
        guesses = {name: centre.mask for name, centre in centres.items()}
        guesses["background"] = torch.zeros(height, width, dtype=torch.bool)
        scores = {name: MaskScores() for name in guesses}
        for number in range(len(test)):
            truth = masks_of(test, [number])
            target = truth.mask[0, truth.labelled[0]]
            for name, guess in guesses.items():
                scores[name].add(guess.float().expand_as(target), target)
        found = {name: one.scores() for name, one in scores.items()}
        return found | {name: {**found[name], "size": centre.size} for name, centre in centres.items()}


def first_frame_loss(decoder: Decoder, model: Frozen, clips: Any, numbers: Sequence[int], epoch: int) -> Tensor:
    """Binary cross-entropy of the first frame of clips ``numbers``, frames and masks augmented alike."""
    shape = model.backbone.grid.shape(model.backbone.patch)
    # every worker reads a part, and the model sees them in one: their number changes no digit
    reader = replace(model, batch_size=-(-len(numbers) // max(1, model.workers)))
    # one bad clip is a large share of a batch: the share of all is told where the clips are scored
    found = list(read(reader, Part(clips, 0, shape.frames), View(epoch=epoch), numbers, most_bad=0.5))
    if not found:
        raise UserError(f"scenario {model.scenario.name!r}: no clip of a batch can be used")
    truth = masks_of(clips, torch.cat([part for part, _ in found]).tolist(), model.seed, epoch)
    if not truth.labelled[:, 0].all():
        raise UserError(f"scenario {model.scenario.name!r}: a training clip has no mask of its first frame")
    features = dense(model, functools.reduce(operator.add, [clip for _, clip in found]))
    logits = decoder(features.video, features.audio, shape.height, shape.width)[:, 0]
    return binary_cross_entropy_with_logits(logits, truth.mask[:, 0].to(logits))


def probabilities(decoder: Decoder, model: Frozen, clips: Any, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Probability of every pixel of every frame of clips ``numbers`` that can be used: (number, (T, H, W))."""
    _, height, width, *_ = model.backbone.grid.shape(model.backbone.patch)

    def look(clip: Clip) -> Tensor:
        features = dense(model, clip)
        return decoder(features.video, features.audio, height, width).sigmoid()

    return by_frame(model, clips, numbers, look)


def predict(decoder: Decoder, model: Frozen, clips: Any) -> MaskScores:
    """The scores of all clips, on every frame that has a mask."""
    scores = MaskScores()
    for number, probability in probabilities(decoder, model, clips, range(len(clips))):
        truth = masks_of(clips, [number])
        labelled = truth.labelled[0]
        scores.add(probability[labelled], truth.mask[0, labelled])
    return scores


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [Segmentation]
