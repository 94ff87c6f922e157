"""VGGSound's ``vggsound.csv``: YouTube id, start in seconds, label, train or test; a clip is 10 s long."""

from pathlib import Path

from avcl.data.lists.row import Row, seconds, youtube_stems

SOURCE = "VGGSound"
COLUMNS = ("id", "start", "label", "split")
SECONDS = 10.0


def fits(fields: list[str]) -> bool:
    """Whether a row looks like one of this list."""
    return len(fields) == len(COLUMNS) and fields[3] in ("train", "test")


def parse(fields: list[str], root: Path) -> Row:
    """The clip of a row; ValueError says what is wrong with it."""
    video, start, label, split = fields
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither train nor test")
    try:
        begin = seconds(start)
    except ValueError:
        raise ValueError(f"start {start!r} is no number of seconds") from None
    if not video or not label:
        raise ValueError("no id or no label")
    stems = youtube_stems(video, begin, begin + SECONDS)
    return Row(f"{video}_{round(begin):06d}", (label,), "train" if split == "train" else "eval", stems)
