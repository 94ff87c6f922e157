"""VGGSound's released ``test.csv``: a file name of YouTube id and start in seconds, label; a clip is 10 s long."""

import re
from pathlib import Path

from avcl.data.lists.row import Row, stems_of

SOURCE = "VGGSound"
COLUMNS = ("id_seconds.mp4", "label")
FILE = re.compile(r"([\w-]{11}_\d{6})(?:\.mp4)?")


def fits(fields: list[str]) -> bool:
    """Whether a row looks like one of this list."""
    return len(fields) == len(COLUMNS) and bool(FILE.fullmatch(fields[0]))


def parse(fields: list[str], root: Path) -> Row:
    """The clip of a row; ValueError says what is wrong with it."""
    file, label = fields
    if not (found := FILE.fullmatch(file)):
        raise ValueError(f"{file!r} is no <id>_<seconds in 6 digits>.mp4")
    if not label:
        raise ValueError("no label")
    return Row(found[1], (label,), stems=stems_of(found[1]))
