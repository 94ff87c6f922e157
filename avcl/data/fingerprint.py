"""What a clip's files hold, in one short text: two clips of one digest are the same clip."""

import hashlib
import os
from collections.abc import Iterable, Sequence

from avcl.faults import of_machine

EDGE = 2**20  # bytes at either end that are looked at: a clip is rarely longer, a film is


def digest(paths: Iterable[str]) -> str:
    """SHA-256 over each file's size, its first and its last MiB; empty where one is no file or cannot be read."""
    found = hashlib.sha256()
    try:
        for path in paths:
            if not os.path.isfile(path):  # a device has no end
                return ""
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                found.update(b"%d:" % size + file.read(EDGE))
                file.seek(max(EDGE, size - EDGE))
                found.update(file.read())
    except OSError as error:
        if of_machine(error):
            raise
        return ""
    return found.hexdigest()


def fingerprint_of(clips: Iterable[Sequence[str]]) -> str:
    """SHA-256 of clips, each some texts (split, task, name, digest), in whatever order."""
    lines = sorted("\t".join(clip) + "\n" for clip in clips)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
