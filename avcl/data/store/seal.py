"""The SHA-256 of a store's files: that of a shard's content, made while it is written, is its last 32 bytes.

``store.json`` has those of all whole files, as ``sha256sum`` gives them.
"""

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from avcl.errors import UserError

END = struct.pack("<iI", -1, 0)  # of an Arrow stream
SEAL = b"SHA-256 "  # comes after it, with the 32 bytes of the hash
LENGTH = len(SEAL) + 32


class Sealing:
    """A file to write a shard to, which ends in its hash."""

    def __init__(self, file: BinaryIO):
        self.file, self.content = file, hashlib.sha256()
        self.closed, self.flush = False, file.flush

    def write(self, part: Any) -> int:
        """Write a part."""
        self.content.update(part)
        return self.file.write(part)

    def seal(self) -> None:
        """Write the hash."""
        self.file.write(SEAL + self.content.digest())


def shard_hash(path: Path) -> tuple[str, bool]:
    """SHA-256 of a shard's file, and whether it is sealed; UserError where its seal is not that of its content."""
    with reported(path), path.open("rb") as file:
        found, left = hashlib.sha256(), os.fstat(file.fileno()).st_size - LENGTH
        while left > 0 and (part := file.read(min(left, 2**20))):
            found.update(part)
            left -= len(part)
        content, end = found.digest(), file.read()
        if end.startswith(SEAL):
            if end[len(SEAL) :] != content:
                raise ValueError("its content is not that of its SHA-256")
        elif not end.endswith(END):  # earlier ones have no seal
            raise ValueError("it has no end")
        found.update(end)
        return found.hexdigest(), end.startswith(SEAL)


def file_hash(path: Path) -> str:
    """SHA-256 of any other file of a store."""
    with reported(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(path: str | Path, why: str) -> UserError:
    """What to raise for a file of a store that is not as it was made."""
    said = " ".join(why.split())
    return UserError(f"{path}: cannot be read: {said}; remove it and prepare again")


@contextlib.contextmanager
def reported(path: str | Path) -> Iterator[None]:
    """Every complaint about a file of a store becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise damaged(path, (error.strerror or str(error)).lower()) from None
    except (struct.error, ValueError, pa.ArrowException) as error:
        raise damaged(path, str(error)) from None
