"""A prepared store: every clip decoded once, in Arrow files.

A folder with ``plan.json`` (what is to be in it), ``shards/NNNNN.arrow`` (Arrow streams, each written aside and
renamed), ``index.arrow`` (all but frames and sound, of all clips), ``lists`` (those that named the clips) and, last
of all, ``store.json``: without it the store is not complete. It has the SHA-256 of every file and of itself; stores of
earlier versions have none. ``datasets.load_from_disk`` of Hugging Face opens it too. A row is a clip: frames as JPEG or
PNG, sound as 16-bit samples at 16 kHz; a clip that could not be decoded has a ``reason`` instead.

Whoever made a store, opening it reads nothing outside: shards are known by their numbers, and clips have names within
a folder. Shards may be links, as to other disks.
"""

import functools
import hashlib
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
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
from avcl.data.paths import below
from avcl.data.source import Record, Source
from avcl.data.store import seal, shard
from avcl.errors import UserError
from avcl.utils.atomic import as_json
from avcl.utils.console import in_threads


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
    sha256: str = ""


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
    """What ``store.json`` must say.

    ``files``: SHA-256 of each file that is no shard · ``sha256``: of the text without it.
    """

    shards: list[Shard]
    files: dict[str, str] = field(default_factory=dict)
    sha256: str = ""


def read_facts(path: Path, kind: type[Plan]) -> dict[str, Any]:
    """A JSON file that says what ``kind`` has, and maybe more; ValueError where it does not, or its hash is wrong."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    text = path.read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    TypeAdapter(kind).validate_python(facts)
    if {"files", "sha256"} & facts.keys() and text != as_json(hashed(facts)):
        raise ValueError
    return facts


def hashed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a ``store.json``, with its own SHA-256 as the last."""
    rest = {key: value for key, value in facts.items() if key != "sha256"}
    return rest | {"sha256": hashlib.sha256(as_json(rest).encode()).hexdigest()}


def shard_name(number: int) -> str:
    """Where a shard lies in its store."""
    return f"shards/{number:05d}.arrow"


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

    def each_picture(self, times: Sequence[float]) -> Iterator[Tensor]:
        """The kept pictures that begin last at or before each of ``times``."""
        self._refuse()
        numbers = [int((time + decode.ROUNDING) * self.rate) for time in times]
        try:
            coded = shard.frames(self.shard, self.row, numbers)
        except IndexError:
            raise decode.bad(self.path, f"no picture at {times[-1]:.1f} s") from None
        return decode.alike(
            self.path, (decode_picture(io.BytesIO(picture), self.path, self.bounds) for picture in coded)
        )

    def sound(self, seconds: float) -> Tensor:
        """The first of the kept samples, exactly as they were decoded."""
        self._refuse()
        wave = shard.sound(self.shard, self.row, math.ceil(min(seconds * decode.RATE, sys.maxsize)))
        if not len(wave) or wave.min() == wave.max():
            raise decode.bad(self.path, "silent")
        return torch.from_numpy(wave.astype(np.float32) / 2**15)

    def _refuse(self) -> None:
        if self.reason:
            raise decode.bad(self.path, self.reason)


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
            raise UserError(f"{str(folder)!r} cannot be read: {(error.strerror or str(error)).lower()}") from None
        except ValueError:
            raise UserError(f"{str(folder)!r}: its store.json is corrupt; remove that and prepare again") from None
        self.form = Form(**self.facts["form"])
        if len(self.facts["shards"]) != -(-self.facts["clips"] // self.facts["per_shard"]):
            raise UserError(f"{str(folder)!r}: its store.json is corrupt; remove that and prepare again")
        for number, kept in enumerate(self.facts["shards"]):
            if kept["file"] != shard_name(number):
                raise UserError(f"{str(folder)!r}: its store.json names {kept['file']!r}, not {shard_name(number)}")
            path = self.folder / kept["file"]
            if not path.is_file() or path.stat().st_size != kept["bytes"]:
                raise UserError(f"{str(folder)!r} lacks {kept['file']} as it was made; prepare it again")

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 by file, empty where the store was made by a version that wrote none."""
        shards = {kept["file"]: kept.get("sha256", "") for kept in self.facts["shards"]}
        return {**self.facts["files"], **shards} if self.facts.get("files") else {}

    def damage(self) -> list[str]:
        """A line for each file that is not as it was made, by its SHA-256; all of them are read."""
        return [line for line in in_threads(self._damage, list(self.hashes), "verifying the store") if line]

    def _damage(self, name: str) -> str:
        path = self.folder / name
        try:
            found = seal.shard_hash(path)[0] if name.startswith("shards/") else seal.file_hash(path)
            if found != self.hashes[name]:
                raise seal.damaged(path, "its SHA-256 is not that of store.json")
        except UserError as error:
            return str(error)
        return ""

    @functools.cached_property
    def records(self) -> list[Record]:
        """Every clip, by its number; UserError where the index is not as it was made."""
        path = self.folder / "index.arrow"
        if self.hashes and (wrong := self._damage(path.name)):
            raise UserError(wrong)
        with seal.reported(path):
            table = pa.ipc.open_stream(path.read_bytes()).read_all()
            table.validate(full=True)
            rows = table.to_pylist()
            if len(rows) != self.facts["clips"] or table.schema.names != list(shard.INDEX):
                raise ValueError(f"it has {len(rows)} clips of {', '.join(table.schema.names)}")
        found = []
        for number, row in enumerate(rows):
            try:
                below("", row["name"])
            except UserError as error:
                raise seal.damaged(path, f"{error}: the name of clip {row['index']}") from None
            place, row_there = divmod(number, self.facts["per_shard"])
            source = Stored(
                *(row["path"], -1, -1, row["index"], row["name"]),
                shard=str(self.folder / shard_name(place)),
                row=row_there,
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
