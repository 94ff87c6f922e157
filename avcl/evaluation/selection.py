"""Whether the right patches are selected: a method's importance and choice against the truth; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pydantic import PositiveInt

from avcl.errors import UserError
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.hookspecs import hookimpl
from avcl.metrics.baselines import Baseline, Score
from avcl.metrics.selection import Selects, selecting, selection_scores
from avcl.scenario import truth_of

CHANCE = {"auc": 50.0}


@dataclass(kw_only=True)
class SelectionEvaluation(Evaluation):
    """AUC and recall of importance, share of the source among kept patches, entropy: of a method and of baselines.

    ``<method>/<video|audio>/<score>`` in percent, the mean over tasks; what they are: ``selection_scores`` of
    ``avcl.metrics.selection``. The method is the run's, or that of ``--set strategy=NAME``; beside it stand random
    patches, those of the centre, of the highest energy, of the largest echo in the clip's own and in another clip's
    other modality, and the truth's (``avcl.metrics.baselines``).

    Args:
        clips: Evaluation clips of each task.
    """

    name: ClassVar[str] = "selection"
    suits: ClassVar[tuple[str, ...]] = ("synthetic",)
    as_metric: ClassVar[bool] = False

    clips: PositiveInt = 64

    def evaluate(self, model: Frozen) -> Scores:
        """Score the method and the baselines on the same clips of every task."""
        tasks: list[Any] = [model.scenario.clips(task, "eval") for task in range(len(model.scenario.task_names))]
        if any(truth_of(clips) is None for clips in tasks):
            raise self.unsuited(model.scenario, "truth")
        method = selecting(model.strategies)
        if method is None:
            names = " and ".join(repr(part.name) for part in model.strategies) or "no strategy"
            raise UserError(f"selection: {names} selects no patches; name a method that does with --set strategy=NAME")
        named: dict[str, Selects | None] = {method.name: method}
        named |= {f"{score} (baseline)": Baseline(score=score) for score in get_args(Score)}
        named["oracle"] = None
        scores, chance, details = {}, {}, {}
        for name, scorer in named.items():
            rows = [
                selection_scores(scorer, model.backbone, clips, clips=self.clips, seed=model.seed) for clips in tasks
            ]
            found = {key: [100 * value for row in rows if (value := row[key]) is not None] for key in rows[0]}
            means = {key: sum(values) / len(values) for key, values in found.items() if values}
            details[name] = dict(zip(model.scenario.task_names, rows, strict=True))
            for key, value in means.items():
                kind, _, score = key.partition("/")
                if score in ("recall_chance", "source_all"):
                    continue
                scores[f"{name}/{key}"] = value
                beside = {"recall": "recall_chance"}.get(score, "source_all" if score.startswith("source_") else "")
                by_chance = CHANCE.get(score, means.get(f"{kind}/{beside}"))
                if by_chance is not None:
                    chance[f"{name}/{key}"] = by_chance
        count = sum(min(self.clips, len(clips)) for clips in tasks)
        blind = frozenset(name for name in scores if name.endswith("entropy"))
        return Scores(scores=scores, chance=chance, clips=count, lower_is_better=blind, details={"tasks": details})


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """This one."""
    return [SelectionEvaluation]
