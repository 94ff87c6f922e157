"""Zero-shot audio-video retrieval of any weights on any scenario, scored as in a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from avcl.errors import UserError
from avcl.evaluation.features import all_clips, features
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.hookspecs import hookimpl
from avcl.metrics.retrieval import MEDIAN, chance_of, retrieval_scores

KS = (1, 5, 10)


@dataclass(kw_only=True)
class ZeroShotRetrieval(Evaluation):
    """Zero-shot retrieval: recall and median rank of every clip in the gallery of all tasks, averaged over tasks.

    Cosine similarity of unmasked embeddings, audio to video (a2v) and back (v2a). Chance is that of a random order.
    The paper's gallery: clips of classes that no task trains on are left out.
    """

    name: ClassVar[str] = "retrieval"
    as_metric: ClassVar[bool] = False

    def evaluate(self, model: Frozen) -> Scores:
        """Rank every evaluation clip of all tasks."""
        found = features(model, all_clips(model, "eval"), "unimodal")
        kept = ~torch.isin(found.label, torch.tensor(sorted(model.scenario.gallery_only), dtype=torch.long))
        gallery = int(kept.sum())
        if not gallery:
            raise UserError(f"{self.name}: scenario {model.scenario.name!r} has no clip in its gallery")
        audio, video = (normalize(part[kept], dim=-1) for part in found.values.chunk(2, dim=1))
        table, queries = retrieval_scores(found.task[kept], audio, video, KS)
        return Scores(
            scores={name: sum(row) / len(row) for name, row in table.items()},
            chance={name: chance_of(name, KS, gallery)[0] for name in table},
            clips=gallery,
            lower_is_better=frozenset(name for name in table if name.endswith(MEDIAN)),
            details={"gallery": gallery, "queries": queries, "per_task": table},
        )


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [ZeroShotRetrieval]
