"""Audio-video retrieval after fine-tuning with the backbone's own loss (the paper's MSR-VTT).

Lee et al., *STELLA*, ICML 2024, arXiv 2310.08204: pre-training goes on with the masked reconstruction and contrastive
losses on the training clips, then the test clips are retrieved. Hyper-parameters of the authors' code.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch.utils.data import Subset

from avcl.compat import benchmark_from_datasets
from avcl.evaluation.features import all_clips, chosen
from avcl.evaluation.protocol import Evaluation, Frozen, Scores
from avcl.evaluation.retrieval import ZeroShotRetrieval
from avcl.hookspecs import hookimpl
from avcl.scenario import as_avalanche
from avcl.settings import Moment
from avcl.strategy import Strategy
from avcl.training.learner import Learner


@dataclass(kw_only=True)
class FinetunedRetrieval(Evaluation):
    """Retrieval after fine-tuning: a copy of the model goes on pre-training on the training clips of all tasks.

    With the backbone's own loss, no replay, and Adam at a constant rate. Scores, gallery and chance are those of
    zero-shot retrieval; the file also holds the scores before.

    Args:
        epochs: Passes over the training clips.
        batch_size: Clips of one step.
        lr: Learning rate.
        betas: Decay rates of Adam's first and second moment.
        weight_decay: Weight decay of matrices; vectors and position tables have none.
        warmup: Steps of linear learning-rate warm-up; 0 for none.
        train_clips: Training clips at most, a random choice that is always the same; null for all.
    """

    name: ClassVar[str] = "retrieval_finetuned"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"synthetic": {"epochs": 5, "train_clips": 2048, "lr": 5e-4}}

    epochs: PositiveInt = 15
    batch_size: PositiveInt = 48
    lr: PositiveFloat = 1e-4
    betas: tuple[Moment, Moment] = (0.95, 0.999)
    weight_decay: NonNegativeFloat = 5e-7
    warmup: NonNegativeInt = 0
    train_clips: PositiveInt | None = None

    def evaluate(self, model: Frozen) -> Scores:
        """Fine-tune a copy, then retrieve with it."""
        before = ZeroShotRetrieval().evaluate(model)
        data = all_clips(model, "train")
        numbers = chosen(data, self.train_clips)
        stream = benchmark_from_datasets(train=[as_avalanche(Subset(data, numbers))]).train_stream
        backbone = copy.deepcopy(model.backbone)
        learner = Learner(
            backbone=backbone,
            strategy=Strategy(),
            device=model.device,
            seed=model.seed,
            epochs=self.epochs,
            batch_size=min(self.batch_size, len(numbers)),
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            workers=model.workers,
        )
        learner.train(stream)
        backbone.eval()
        after = ZeroShotRetrieval().evaluate(dataclasses.replace(model, backbone=backbone))
        details = {**after.details, "training_clips": len(numbers), "zero_shot": dict(before.scores)}
        return dataclasses.replace(after, details=details)


@hookimpl
def evaluations() -> Iterable[type[Evaluation]]:
    """What this module offers."""
    return [FinetunedRetrieval]
