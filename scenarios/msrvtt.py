"""MSR-VTT, on which retrieval after fine-tuning is measured, in its published layouts.

Xu et al., *MSR-VTT: A Large Video Description Dataset for Bridging Video and Language*, CVPR 2016: 10,000 videos
``<video_id>.mp4`` below one folder; splits as lists of ids (``train_list_miech.txt``: 6,656 and 1,000 videos, as the
STELLA authors), as tables with a column ``video_id`` (``MSRVTT_train.9k.csv``, ``MSRVTT_JSFUSION_test.csv``), or as
the ``split`` of ``MSRVTT_data.json``. Captions are not read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from avcl.data.file_scenario import FileScenario
from avcl.errors import UserError
from avcl.hookspecs import hookimpl
from avcl.scenario import Split
from avcl.scenarios.one_task import Entry, OneTask, lines_of


@dataclass(kw_only=True)
class MsrVtt(OneTask):
    """MSR-VTT below ``root``: videos of two lists as one task of one class, to fine-tune and retrieve.

    Args:
        train: List of the training clips, below root: .txt with an id a line, .csv with a column video_id, or .json
            with videos of the split train.
        eval: List of the evaluation clips, below root, likewise; of a .json the videos of the split test.
    """

    name: ClassVar[str] = "msrvtt"

    train: str = "train_list_miech.txt"
    eval: str = "test_list_miech.txt"

    def entries(self, path: Path, split: Split) -> Iterator[Entry]:
        """The videos of a list, by their ids; a csv with a caption a line names a video again and again."""
        for video in dict.fromkeys(video_ids(path, "train" if split == "train" else "test")):
            yield Entry(video, "video", video)


def video_ids(path: Path, split: str) -> Iterable[str]:
    """The ids in a list, of a .json those of ``split``; UserError where it has none."""
    if path.suffix.lower() == ".json":
        return _of_json(path, split)
    if path.suffix.lower() == ".csv":
        return _of_csv(path)
    return lines_of(path)


def _of_json(path: Path, split: str) -> list[str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [video["video_id"] for video in content["videos"] if video["split"] == split]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: has no videos with video_id and split ({type(error).__name__}: {error})") from None


def _of_csv(path: Path) -> list[str]:
    rows = csv.DictReader(lines_of(path))
    if "video_id" not in (rows.fieldnames or ()):
        raise UserError(f"{path}: has no column 'video_id'; its first line names {', '.join(rows.fieldnames or ())}")
    return [row["video_id"] for row in rows if row["video_id"]]


@hookimpl
def scenarios() -> Iterable[type[FileScenario]]:
    """What this module offers."""
    return [MsrVtt]
