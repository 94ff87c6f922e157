"""What lists of clips gave: those that are there, those that are not, and where media files lie."""

import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from avcl.data.file_scenario import ENDINGS, Absent
from avcl.data.source import Source
from avcl.scenario import Split
from avcl.utils.console import counted

log = logging.getLogger(__name__)

YOUTUBE = re.compile(r"Y?([\w-]{11})_[\d._]+")


def list_path(root: Path, store: str | None, name: str) -> Path:
    """Where a list lies: below the root, or else in the store."""
    kept = Path(store or "").expanduser() / "lists" / name
    return kept if store and os.path.isfile(kept) and not os.path.isfile(root / name) else root / name


@dataclass
class Selection:
    """Clips by split, clips left out, and clips to pre-train on."""

    sources: dict[Split, list[Source]] = field(default_factory=lambda: {"train": [], "eval": []})
    absent: list[Absent] = field(default_factory=list)
    spare: list[Source] = field(default_factory=list)

    def leave_out(self, split: str, task: str, name: str, reason: str) -> None:
        """Count a clip that is in no dataset."""
        self.absent.append(Absent(split, task, name, reason))

    def missing(self, split: str) -> int:
        """How many clips of a split are in the list and not there."""
        return sum(item.reason == "missing" for item in self.absent if item.split == split)

    def warn(self) -> None:
        """Log how many clips were left out and why, with an example of each."""
        for reason, times in Counter(item.reason.partition(":")[0] for item in self.absent).items():
            example = next(item.name for item in self.absent if item.reason.startswith(reason))
            log.warning("left out, %s: %s; the first: %s", reason, counted(times, "clip"), example)


def media_files(root: Path) -> dict[str, str]:
    """The path of every media file below a folder by its name without ending, the first one of each.

    The one clip of a YouTube id is also at ``id_*``; of several there is the empty text.
    """
    found: dict[str, str] = {}
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(folder)) in visited:
            folders.clear()  # a link to where we were, maybe back up
            continue
        visited.add(real)
        for name in sorted(files):
            stem, ending = os.path.splitext(name)
            if ending.lower() in ENDINGS:
                path = found.setdefault(stem, os.path.join(folder, name))
                if clip := YOUTUBE.fullmatch(stem):
                    only = found.setdefault(f"{clip[1]}_*", path)
                    found[f"{clip[1]}_*"] = only if only == path else ""
    return found
