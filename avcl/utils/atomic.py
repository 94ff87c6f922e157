"""Files that get their name when they are whole, however many processes write them and whenever one is killed."""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from avcl.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def alone(home: Path) -> Iterator[BinaryIO | None]:
    """A file that will be called ``home``; None where there is one already, or another process is at it."""
    if fcntl is None:
        raise UserError(f"{home.parent}: cannot be made: that takes the file locks of Linux and macOS (flock)")
    aside = aside_of(home)
    with open(os.open(aside, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        # Whoever holds the lock writes. A killed process loses it, and its half file is begun anew.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        except OSError as error:
            told = f"its file system has no locks ({(error.strerror or str(error)).lower()})"
            raise UserError(f"{home.parent}: {told}; make the store on another one and copy it") from None
        if home.exists() or not _is(file, aside):  # finished in the meantime, maybe by renaming this very file
            if home.exists():
                aside.unlink(missing_ok=True)
            yield None
            return
        file.truncate(0)
        with _renamed(file, aside, home):
            yield file


def aside_of(home: Path) -> Path:
    """Where ``home`` is written, whoever writes it: the lock is on this file. A name may be as long as names can be."""
    return home.with_name(hashlib.sha256(os.fsencode(home.name)).hexdigest()[:32] + ".writing")


@contextlib.contextmanager
def fresh(home: Path) -> Iterator[BinaryIO]:
    """A file that will be called ``home``, in place of one that there may be."""
    aside = home.with_name(f"{uuid.uuid4().hex}.writing")
    with aside.open("wb") as file, _renamed(file, aside, home):
        yield file


def coded(content: Any) -> bytes:
    """JSON, for people too."""
    return (json.dumps(content, indent=1) + "\n").encode()


@contextlib.contextmanager
def _renamed(file: BinaryIO, aside: Path, home: Path) -> Iterator[None]:
    """What was written is on the disk before it has its name; after a failure its space is free again."""
    try:
        yield
        file.flush()
        os.fsync(file.fileno())
        os.replace(aside, home)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one at ``path``."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
