"""Sound source localization: heat maps of a frozen model against the masks of what sounds; nothing is trained.

Maps as in Lee et al., *STELLA*, ICML 2024, arXiv 2310.08204 (figures of source localization: attention of the matching
module, cosine of video patches with the mean audio embedding); scores as in the literature, see localization_scores.
As a control the maps are scored once more with the sound of another clip: what stays is saliency, not matching.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.utils.data import Dataset

from avcl.clip import Clip
from avcl.errors import UserError
from avcl.evaluation.features import all_clips, chosen
from avcl.evaluation.heat_maps import BASELINES, Means, heat_maps
from avcl.evaluation.localization_scores import LocalizationScores
from avcl.evaluation.masks import Part, by_frame, masks_of
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.hookspecs import hookimpl
from avcl.scenario import truth_of


@dataclass
class OtherSound(Dataset):
    """The clips, each with the sound of the next one; the last with that of the first."""

    clips: Any

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self.clips[number], "mel": self.clips[(number + 1) % len(self.clips)]["mel"]}


@dataclass(kw_only=True)
class SourceLocalization(Evaluation):
    """Where the sound comes from: cIoU, its AUC and the pointing game of several heat maps, in percent.

    ``<map>/ciou`` and ``<map>/auc`` take the half of the frame that is hottest, as published; ``ciou_adaptive`` and
    ``auc_adaptive`` as many pixels as the source has. Chance is nearness to the middle of the frame.

    Args:
        temperature: Temperature of the matching module's attention (β of STELLA).
        mean_clips: Training clips over which the mean token is taken that the map ``projection`` takes away.
        picture: PNG file for a picture of some clips with their masks and heat maps.
    """

    name: ClassVar[str] = "source_localization"
    suits: ClassVar[tuple[str, ...]] = ("avsbench", "synthetic")

    temperature: PositiveFloat = 0.4
    mean_clips: PositiveInt = 256
    picture: str | None = None

    def evaluate(self, model: Frozen) -> Scores:
        """Score every map on the evaluation clips of all tasks."""
        clips: Any = all_clips(model, "eval")
        train = all_clips(model, "train")
        if truth_of(clips) is None:
            raise self.unsuited(model.scenario, "masks")
        first = Part(train, 0, model.backbone.grid.frames)
        means = Means.over(model, first, chosen(train, self.mean_clips))
        found = self._score(model, clips, clips, means)
        other = self._score(model, clips, OtherSound(clips), means)
        if self.picture:
            from avcl.evaluation.mask_pictures import draw

            title = "First frames: heat maps from low (blue) to high (yellow), the true mask outlined in white"
            draw(self.picture, clips, lambda numbers: self._maps(model, clips, numbers, means), title, outline=None)
        mine = [name for name in found if name not in BASELINES]
        return Scores(
            scores={f"{name}/{score}": value for name in mine for score, value in found[name].items()},
            chance={f"{name}/{score}": value for name in mine for score, value in found["centre"].items()},
            clips=len(clips),
            details={
                "baselines": {name: found[name] for name in BASELINES},
                "other_sound": {name: other[name] for name in mine},
            },
        )

    def _score(self, model: Frozen, clips: Any, shown: Any, means: Means) -> dict[str, dict[str, float]]:
        """Every map's scores; ``shown`` to the model are the clips, or the same with other sounds."""
        scores: dict[str, LocalizationScores] = {}
        for number, maps in self._maps(model, shown, range(len(clips)), means):
            truth = masks_of(clips, [number])
            labelled = truth.labelled[0]
            for name, heat in maps.items():
                scores.setdefault(name, LocalizationScores()).add(heat[labelled], truth.mask[0, labelled])
        if not scores:
            raise UserError(f"scenario {model.scenario.name!r}: no clip can be used")
        return {name: one.scores() for name, one in scores.items()}

    def _maps(self, model: Frozen, shown: Any, numbers: Any, means: Means) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The maps (T, rows, cols) by name of every clip that can be used."""
        grid = model.backbone.grid
        names: list[str] = []

        def look(clip: Clip) -> Tensor:
            maps = heat_maps(model, clip, means, self.temperature)
            names[:] = maps
            return torch.stack([heat.float() for heat in maps.values()], 2).unflatten(1, grid[:3]).movedim(4, 2)

        for number, maps in by_frame(model, shown, numbers, look):
            yield number, dict(zip(names, maps.unbind(1), strict=True))


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [SourceLocalization]
