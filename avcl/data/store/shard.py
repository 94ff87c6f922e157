"""Reads clips of a shard, an Arrow stream with a batch for each, by plain reads of just what is asked for.

A file that is cut meanwhile is an error of one line, where one that is mapped into memory ends the process. Where a
clip's frames and sound lie is found once, from the heads of the batches (Arrow's Message.fbs, in flatbuffers).
"""

import functools
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avcl.data.store.seal import END, reported

FACTS = {"split": "string", "task": "string", "class": "string", "name": "string", "path": "string", "index": "int64"}
INDEX = FACTS | {"digest": "string", "reason": "string", "video": "float64", "audio": "float64"}
SCHEMA = pa.schema(
    [(name, getattr(pa, kind)()) for name, kind in INDEX.items()]
    + [("frames", pa.list_(pa.binary())), ("sound", pa.binary())]
)
OPEN = 64  # shards that a process keeps open


class Places(NamedTuple):
    """Of one clip: how many frames it has; where the ends of its frames, their bytes, its sound's ends, its bytes are.

    Ends count from where the bytes begin; the first one is the beginning.
    """

    total: int
    frame_ends: int
    frames: int
    sound_ends: int
    sound: int


def frames(path: str, row: int, numbers: Sequence[int]) -> list[bytes]:
    """The coded frames of these numbers; IndexError where a clip has not as many."""
    places = _places_of(path, row)
    if max(numbers) >= places.total:
        raise IndexError
    with reported(path):
        ends = struct.unpack(f"<{places.total + 1}i", _read(path, places.frame_ends, 4 * places.total + 4))
        return [_read(path, places.frames + ends[number], ends[number + 1] - ends[number]) for number in numbers]


def sound(path: str, row: int, samples: int) -> NDArray[np.int16]:
    """A clip's first samples, at most so many."""
    places = _places_of(path, row)
    with reported(path):
        begin, end = struct.unpack("<2i", _read(path, places.sound_ends, 8))
        return np.frombuffer(_read(path, places.sound + begin, min(end - begin, 2 * samples)), np.int16)


class _Opened:
    """A file, open until nobody reads it any more."""

    def __init__(self, path: str):
        self.number = -1
        self.number = os.open(path, os.O_RDONLY)
        found = os.fstat(self.number)
        self.identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


_opened = functools.lru_cache(OPEN)(_Opened)


def _read(path: str, at: int, length: int) -> bytes:
    """So many bytes; ValueError where there are less. Any number of threads and forks read the same file."""
    file = _opened(path)
    if length < 0 or at < 0 or at + length > os.fstat(file.number).st_size:
        raise ValueError("it ends early: cut, or damaged")
    parts: list[bytes] = []
    while length and (part := os.pread(file.number, length, at)):
        parts.append(part)
        at, length = at + len(part), length - len(part)
    if length:
        raise ValueError("it was cut while it was read")
    return b"".join(parts)


def _places_of(path: str, row: int) -> Places:
    with reported(path):
        found = _places(path, _opened(path).identity)
        if row >= len(found):
            raise ValueError(f"has {len(found)} clips, not {row + 1}")
        return Places(*found[row].tolist())


@functools.cache
def _places(path: str, identity: tuple[int, ...]) -> NDArray[np.int64]:
    """The ``Places`` of every clip of a shard, (clips, 5); of another file of that name anew."""
    found: list[Places] = []
    at = 0
    while (start := _read(path, at, 8)) != END:
        mark, length = struct.unpack("<iI", start)
        head = _read(path, at + 8, length)
        message = _Table(head, *struct.unpack_from("<I", head))
        body, size = at + 8 + length, message.number(3)
        if mark != -1 or size < 0:
            raise ValueError("it is no Arrow stream")
        if at:
            found.append(_places_in(message.table(2), body))
        elif pa.ipc.read_schema(pa.py_buffer(start + head)) != SCHEMA:
            raise ValueError("it has other columns")
        at = body + size
    return np.array(found, np.int64).reshape(-1, len(Places._fields))


def _places_in(batch: "_Table", body: int) -> Places:
    """Of a RecordBatch, whose buffers count from ``body``: the last eight are those of the frames and of the sound."""
    nodes, buffers = batch.pairs(1), batch.pairs(2)
    if batch.number(0) != 1 or len(nodes) != len(SCHEMA) + 1:
        raise ValueError("a batch is no single clip")
    *_, (frame_ends, _), (coded, _), _, (sound_ends, _), (sound, _) = buffers
    return Places(nodes[-2][0], *(body + at for at in (frame_ends, coded, sound_ends, sound)))


class _Table(NamedTuple):
    """A table of a flatbuffer, ``at`` its place; struct.error where it leads out of the ``data``."""

    data: bytes
    at: int

    def number(self, field: int) -> int:
        """A 64-bit number, 0 where it is left out."""
        at = self._field(field)
        return struct.unpack_from("<q", self.data, at)[0] if at else 0

    def table(self, field: int) -> "_Table":
        """A table within this one."""
        return _Table(self.data, self._follow(field))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of pairs of 64-bit numbers."""
        at = self._follow(field)
        (count,) = struct.unpack_from("<I", self.data, at)
        values = struct.unpack_from(f"<{2 * min(count, len(self.data))}q", self.data, at + 4)
        return list(zip(values[::2], values[1::2], strict=True))

    def _follow(self, field: int) -> int:
        if not (at := self._field(field)):
            raise ValueError("a batch lacks its content")
        return at + struct.unpack_from("<I", self.data, at)[0]

    def _field(self, field: int) -> int:
        """Where a field lies, 0 where it is left out."""
        fields = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        (size,) = struct.unpack_from("<H", self.data, fields)
        place = 4 + 2 * field
        offset = struct.unpack_from("<H", self.data, fields + place)[0] if place < size else 0
        return self.at + offset if offset else 0
