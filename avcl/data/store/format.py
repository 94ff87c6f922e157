"""A prepared store: every clip decoded once, in Arrow files that are mapped into memory.

A folder with ``plan.json`` (what is to be in it), ``shards/NNNNN.arrow`` (Arrow streams, each written aside and
renamed), ``index.arrow`` (all but frames and sound, of all clips), ``lists`` (those that named the clips) and, last
of all, ``store.json``: without it the store is not complete. ``datasets.load_from_disk`` of Hugging Face opens it too.
A row is a clip: frames as JPEG or PNG, sound as 16-bit samples at 16 kHz; a clip that could not be decoded has a
``reason`` instead.
"""

import functools
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import PositiveFloat, PositiveInt, TypeAdapter
from torch import Tensor

from avcl.data import decode
from avcl.data.extracted import decode_picture
from avcl.data.source import Record, Source
from avcl.errors import UserError

FACTS = {"split": "string", "task": "string", "class": "string", "name": "string", "path": "string", "index": "int64"}
INDEX = FACTS | {"digest": "string", "reason": "string", "video": "float64", "audio": "float64"}
SCHEMA = pa.schema(
    [(name, getattr(pa, kind)()) for name, kind in INDEX.items()]
    + [("frames", pa.list_(pa.binary())), ("sound", pa.binary())]
)


@dataclass(frozen=True)
class Form:
    """How clips are kept: the size of frames, how many a second of the first ``seconds``, and their coding."""

    height: PositiveInt
    width: PositiveInt
    rate: PositiveFloat
    seconds: PositiveFloat
    codec: str
    quality: int


@dataclass(frozen=True)
class Shard:
    """A file of a complete store."""

    file: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What ``plan.json`` must say; ``selection``: the settings that chose the clips."""

    clips: PositiveInt
    per_shard: PositiveInt
    listing: str
    form: Form
    selection: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Facts(Plan):
    """What ``store.json`` must say."""

    shards: list[Shard]


def read_facts(path: Path, kind: type[Plan]) -> dict[str, Any]:
    """A JSON file that says what ``kind`` has, and maybe more; ValueError where it does not."""
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    TypeAdapter(kind).validate_python(facts)
    return facts


@dataclass(frozen=True)
class Stored(Source):
    """A clip in row ``row`` of the file ``shard``; ``path`` names the file that it was made of.

    ``content``: the digest of what it was made of · ``reason``: why it could not be decoded · ``video``,
    ``audio``: seconds, as the file was found when it was decoded.
    """

    shard: str = ""
    row: int = 0
    rate: float = 8.0
    content: str = ""
    reason: str = ""
    video: float | None = None
    audio: float | None = None

    def digest(self) -> str:
        """That of the files it was made of."""
        return self.content

    def probe(self, until: float) -> decode.Probe:
        """As the file was found when it was decoded."""
        if self.video is None and self.audio is None:
            self._refuse()
        return decode.Probe(video=self.video, audio=self.audio, fps=self.rate, rate=decode.RATE, channels=1)

    def pictures(self, times: Sequence[float]) -> Tensor:
        """The kept pictures that begin last at or before each of ``times``."""
        self._refuse()
        frames = _table(self.shard)["frames"][self.row]
        numbers = [int((time + decode.ROUNDING) * self.rate) for time in times]
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
            raise decode.bad(self.path, "silent")
        return torch.from_numpy(wave.astype(np.float32) / 2**15)

    def _refuse(self) -> None:
        if self.reason:
            raise decode.bad(self.path, self.reason)


@functools.cache
def _table(path: str) -> pa.Table:
    """The file, mapped into memory: opened once in a process, read as far as it is needed."""
    return read_shard(path)


def read_shard(path: str | Path) -> pa.Table:
    """All of one Arrow file; UserError where it is corrupt."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read: {said}; remove it and prepare again") from None


class Store:
    """The clips of a complete store, found by split and name; UserError where it is not complete."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        try:
            self.facts = read_facts(self.folder / "store.json", Facts)
        except FileNotFoundError:
            begun = (self.folder / "plan.json").exists()
            said = "is not complete; resume with `avcl data prepare`" if begun else "is no prepared store"
            raise UserError(f"{str(folder)!r} {said}") from None
        except OSError as error:
            raise UserError(f"{str(folder)!r} cannot be read: {error}") from None
        except ValueError:
            raise UserError(f"{str(folder)!r}: its store.json is corrupt; remove that and prepare again") from None
        self.form = Form(**self.facts["form"])
        for shard in self.facts["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise UserError(f"{str(folder)!r} lacks {shard['file']} as it was made; prepare it again")

    @functools.cached_property
    def records(self) -> list[Record]:
        """Every clip, by its number."""
        found = []
        for number, row in enumerate(read_shard(self.folder / "index.arrow").to_pylist()):
            shard, place = divmod(number, self.facts["per_shard"])
            source = Stored(
                *(row["path"], -1, -1, row["index"], row["name"]),
                shard=str(self.folder / self.facts["shards"][shard]["file"]),
                row=place,
                rate=self.form.rate,
                content=row["digest"],
                **{name: row[name] for name in ("reason", "video", "audio")},
            )
            found.append(Record(row["split"], row["task"], row["class"], source))
        return sorted(found, key=lambda clip: clip.source.index)

    @functools.cached_property
    def _by_name(self) -> dict[tuple[str, str], Source]:
        return {(clip.split, clip.source.name): clip.source for clip in self.records}

    def find(self, split: str, name: str, label: int, task: int, index: int) -> Source | None:
        """The clip of that name, None where the store does not have it."""
        found = self._by_name.get((split, name))
        return replace(found, label=label, task=task, index=index) if found else None
