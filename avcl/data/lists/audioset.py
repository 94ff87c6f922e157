"""AudioSet's segment lists: YouTube id, start and end in seconds, the mids of all labels in quotes."""

from pathlib import Path

from avcl.data.lists.row import Row, seconds, youtube_stems

SOURCE = "AudioSet"
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")


def fits(fields: list[str]) -> bool:
    """Whether a row looks like one of this list."""
    return len(fields) == len(COLUMNS) and fields[3].startswith("/")


def parse(fields: list[str], root: Path) -> Row:
    """The clip of a row; ValueError says what is wrong with it."""
    video, start, end, labels = fields
    try:
        begin, stop = seconds(start), seconds(end)
    except ValueError:
        raise ValueError(f"{start!r} to {end!r} are no numbers of seconds") from None
    if not video or not labels:
        raise ValueError("no id or no label")
    stems = youtube_stems(video, begin, stop)
    return Row(f"{video}_{round(1000 * begin)}", tuple(part.strip() for part in labels.split(",")), None, stems)
