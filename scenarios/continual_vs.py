"""Continual-VS (STELLA, ICML 2024, arXiv:2310.08204): VGGSound as 8 tasks of 20 classes.

Published is retrieval among the first 5 clips of each class in the order of VGGSound's released ``test.csv``, which is
random: those come by their ids, ``continual_vs_gallery.csv``. How we differ: training clips are found in VGGSound's own
list, as far as they are there, and not in a list of clips that somebody else had; so the first 400 of a class may be
others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import PositiveInt

from avcl.data.file_scenario import FileScenario
from avcl.hookspecs import hookimpl
from avcl.scenarios.listed import Listed


@dataclass(kw_only=True)
class ContinualVS(Listed):
    """VGGSound below ``root``, with its ``vggsound.csv`` or any list that ``listed`` reads: 8 tasks, 160 classes.

    As published: at most 400 training clips of a class, and the 5 of the published gallery to be retrieved, 800 in
    all. ``gallery: all`` adds the other classes of the categories, as the authors' code does: 309 classes, 1,545 clips.
    With a list of yours as ``eval``, such as ``vggsound.csv``, these are the first 5 of a class that are found.
    """

    name: ClassVar[str] = "continual-vs"

    split: str = "continual_vs"
    train: str = "vggsound.csv"
    eval: str = "continual_vs_gallery"
    train_per_class: PositiveInt | None = 400
    eval_per_class: PositiveInt | None = 5


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [ContinualVS]
