"""The lists of the STELLA authors' code: no header; paths from the data root; 8 pictures a second and the sound."""

import os
from pathlib import Path

from avcl.data.lists.row import Row, stems_of, taken_apart

SOURCE = "STELLA"
COLUMNS = ("row", "vid", "frames_path", "wav", "label", "category")
RATE = 8.0


def fits(fields: list[str]) -> bool:
    """Whether a row looks like one of this list."""
    return len(fields) == len(COLUMNS) and fields[0].isdigit()


def parse(fields: list[str], root: Path) -> Row:
    """The clip of a row; ValueError says what is wrong with it."""
    number, video, frames, wav, labels, _ = fields
    if not number.isdigit():
        raise ValueError(f"{number!r} is no row number")
    found = tuple(filter(None, (part.strip(" '\"") for part in labels.strip("[]").split(","))))
    if not (video and frames and wav and found):
        raise ValueError("no vid, frames_path, wav or label")
    stems = stems_of(Path(frames).name, video)
    return Row(video, found, stems=stems, **taken_apart(root, os.path.join(frames, "frame_*.jpg"), wav, RATE))
