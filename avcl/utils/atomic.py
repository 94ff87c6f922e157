"""Writes files that get their name when they are whole, whenever a process is killed and however many write them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from filelock import FileLock, Timeout

from avcl.errors import UserError

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that is on the disk before it replaces ``path``; nothing is left after a failure."""
    with _renamed(path.with_name(f"{uuid.uuid4().hex}.writing"), path) as file:
        yield file


@contextlib.contextmanager
def named_by_content(folder: Path, name: str) -> Iterator[Hashing]:
    """A binary file to be written from front to back; on the disk it gets ``name`` with its SHA-256 in place of {}."""
    written: Hashing | None = None
    aside = folder / f"{uuid.uuid4().hex}.writing"
    with _renamed(aside, lambda: folder / name.format(cast(Hashing, written).hexdigest())) as file:
        written = Hashing(file)
        yield written


class Hashing:
    """A file to write to, and the SHA-256 of all that was written."""

    def __init__(self, file: BinaryIO):
        self.file, self._content = file, hashlib.sha256()
        self.flush, self.hexdigest = file.flush, self._content.hexdigest

    def write(self, part: bytes) -> int:
        """Write ``part``."""
        self._content.update(part)
        return self.file.write(part)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people can read to ``path``, whole or not at all."""
    write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """JSON that people can read."""
    return json.dumps(content, indent=1) + "\n"


@contextlib.contextmanager
def claim(path: Path) -> Iterator[BinaryIO | None]:
    """A binary file that becomes ``path``, written once; None where it exists or another process is writing it.

    What a killed process left is written anew by the next one. UserError where the file system has no locks.
    """
    if path.exists():
        tidy(path)
        yield None
        return
    lock, aside = _beside(path)
    held = FileLock(lock, blocking=False, preserve_lock_file=True)  # so filelock never falls back to a weaker lock
    try:
        held.acquire()
    except Timeout:
        yield None
        return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        lock.unlink(missing_ok=True)
        said = (error.strerror or str(error)).lower()
        raise UserError(f"{path.parent}: its file system has no locks ({said}); choose a folder on another") from None
    try:
        if path.exists():  # finished in the meantime
            yield None
        else:
            with _renamed(aside, path) as file:
                yield file
    finally:
        lock.unlink(missing_ok=True)  # while it is held: whoever opened it before finds it gone, and tries again
        held.release()


def sweep(folder: Path) -> None:
    """Remove from a folder, and from those below it, what killed processes left; nobody else may write into it."""
    for left in folder.rglob("*.writing"):
        if re.fullmatch(r"[0-9a-f]{32}", left.stem):
            left.unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Remove what killed processes left of writing ``path``, which exists."""
    for left in _beside(path):
        left.unlink(missing_ok=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Where ``path`` is locked and where it is written, whoever does it; its name may be as long as names can be."""
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
    return path.with_name(f"{name}.lock"), path.with_name(f"{name}.writing")


@contextlib.contextmanager
def _renamed(aside: Path, path: Path | Callable[[], Path]) -> Iterator[BinaryIO]:
    """What was written is on the disk before it has its name; after a failure its space is free again.

    An OSError is about ``path`` then, also one that a library hid behind an error of its own.
    """
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path() if callable(path) else path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a folder that is gone or read-only: the first error is the one to tell
            aside.unlink(missing_ok=True)
        failed = error if isinstance(error, OSError) else error.__context__
        if isinstance(failed, OSError) and failed.errno is not None and failed.filename in (None, str(aside)):
            raise OSError(failed.errno, failed.strerror, str(aside.parent if callable(path) else path)) from error
        raise
