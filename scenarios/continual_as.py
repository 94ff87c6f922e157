"""Continual-AS (STELLA, ICML 2024, arXiv:2310.08204): AudioSet as 7 tasks, 161 classes in all.

How we differ: a clip with labels of two tasks is left out, as the authors advise; their code keeps the first one found.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt

from avcl.data.file_scenario import FileScenario
from avcl.hookspecs import hookimpl
from avcl.scenarios.listed import Listed


@dataclass(kw_only=True)
class ContinualAS(Listed):
    """AudioSet below ``root``, with its segment lists or any list that ``listed`` reads: 7 tasks, 161 classes.

    As published: all training clips, and 5 of a class to be retrieved; the published ones are those of CAV-MAE's
    ``audioset_eval_5_per_class_for_retrieval_cleaned.json``, to be given as ``eval``. ``gallery: all`` also counts the
    high-level labels of the categories.
    """

    name: ClassVar[str] = "continual-as"

    split: str = "continual_as"
    train: str = "unbalanced_train_segments.csv"
    eval: str = "eval_segments.csv"
    labels: str | None = "class_labels_indices.csv"
    eval_per_class: PositiveInt | None = 5


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [ContinualAS]
