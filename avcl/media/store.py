"""A prepared store: every clip decoded once, in Arrow files that are mapped into memory.

A folder with ``plan.json`` (what is to be in it), ``shards/NNNNN.arrow`` (Arrow streams, each written aside and
renamed) and, last of all, ``store.json``: without it the store is not complete. ``datasets.load_from_disk`` of
Hugging Face opens it too. A row is a clip: frames as JPEG or PNG, sound as 16-bit samples at 16 kHz; a clip that
could not be decoded has a ``reason`` instead.
"""

import functools
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from avcl.errors import UserError
from avcl.media import decode
from avcl.media.extracted import decode_picture
from avcl.media.files import Source

FACTS = {"split": "string", "task": "string", "class": "string", "name": "string", "path": "string", "index": "int64"}
FOUND = {"digest": "string", "reason": "string", "video": "float64", "audio": "float64"}
SCHEMA = pa.schema(
    [(name, getattr(pa, kind)()) for name, kind in (FACTS | FOUND).items()]
    + [("frames", pa.list_(pa.binary())), ("sound", pa.binary())]
)


@dataclass(frozen=True)
class Form:
    """How clips are kept: the size of frames, how many a second of the first ``seconds``, and their coding."""

    height: int
    width: int
    rate: float
    seconds: float
    codec: str
    quality: int


@dataclass(frozen=True)
class Stored(Source):
    """A clip in row ``row`` of the file ``shard``; ``path`` names the file that it was made of."""

    shard: str = ""
    row: int = 0
    rate: float = 8.0

    def digest(self) -> str:
        """That of the files it was made of."""
        return self._value("digest")

    def probe(self, until: float) -> decode.Probe:
        """As the file was found when it was decoded."""
        video, audio = self._value("video"), self._value("audio")
        if self._value("reason") and video is None and audio is None:
            raise decode.bad(self.path, self._value("reason"))
        return decode.Probe(video=video, audio=audio, fps=self.rate, rate=decode.RATE, channels=1)

    def pictures(self, times: Sequence[float]) -> Tensor:
        """The kept pictures that begin last at or before each of ``times``."""
        frames = _table(self.shard)["frames"][self.row]
        numbers = [int((time + decode.ROUNDING) * self.rate) for time in times]
        self._refuse()
        if numbers[-1] >= len(frames):
            raise decode.bad(self.path, f"no picture at {times[-1]:.1f} s")
        read = [decode_picture(io.BytesIO(frames[number].as_buffer()), self.path) for number in numbers]
        return torch.stack(read)

    def sound(self, seconds: float) -> Tensor:
        """The first of the kept samples, exactly as they were decoded."""
        self._refuse()
        wave = np.frombuffer(_table(self.shard)["sound"][self.row].as_buffer(), np.int16)
        wave = wave[: math.ceil(min(seconds * decode.RATE, len(wave)))]
        if not len(wave) or wave.min() == wave.max():
            raise decode.bad(self.path, "mute")
        return torch.from_numpy(wave.astype(np.float32) / 2**15)

    def _refuse(self) -> None:
        if self._value("reason"):
            raise decode.bad(self.path, self._value("reason"))

    def _value(self, column: str) -> Any:
        return _table(self.shard)[column][self.row].as_py()


@functools.cache
def _table(path: str) -> pa.Table:
    """The file, mapped into memory: opened once in a process, read as far as it is needed."""
    return read_shard(path)


def read_shard(path: str | Path) -> pa.Table:
    """All of one Arrow file; UserError where it is damaged."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        told = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read: {told}; remove it and prepare again") from None


@dataclass(frozen=True)
class Entry:
    """What a store says about a clip, without its content."""

    split: str
    task: str
    label: str
    source: Stored


class Store:
    """The clips of a complete store, found by split and name; UserError where it is not complete."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        try:
            self.facts = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            begun = (self.folder / "plan.json").exists()
            told = "is not complete; go on with `avcl data prepare`" if begun else "is no prepared store"
            raise UserError(f"{str(folder)!r} {told}") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{str(folder)!r} cannot be read: {error}") from None
        self.form = Form(**self.facts["form"])
        for shard in self.facts["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise UserError(f"{str(folder)!r} lacks {shard['file']} as it was made; prepare it again")

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """Every clip, by its number."""
        found = []
        for shard in self.facts["shards"]:
            path = str(self.folder / shard["file"])
            rows = _table(path).select(list(FACTS)).to_pylist()
            found += [
                Entry(
                    row["split"],
                    row["task"],
                    row["class"],
                    Stored(row["path"], -1, -1, row["index"], row["name"], path, number, self.form.rate),
                )
                for number, row in enumerate(rows)
            ]
        return sorted(found, key=lambda entry: entry.source.index)

    @functools.cached_property
    def _by_name(self) -> dict[tuple[str, str], Stored]:
        return {(entry.split, entry.source.name): entry.source for entry in self.entries}

    def find(self, split: str, name: str, label: int, task: int, index: int) -> Stored | None:
        """The clip of that name, None where the store does not have it."""
        found = self._by_name.get((split, name))
        return replace(found, label=label, task=task, index=index) if found else None
