"""A table of embeddings: a row for each file; kept as parquet or npz, and searched by cosine similarity."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.functional import normalize

from avcl.errors import UserError
from avcl.utils.atomic import replacing

SUFFIXES = (".parquet", ".npz")
Kind = Literal["audio", "video"]
KINDS: tuple[Kind, Kind] = ("audio", "video")


@dataclass
class Embeddings:
    """Embeddings of N files, not normalised; a row of NaN where a file has none of that modality.

    ``audio (N, D)``, ``video (N, D)`` · ``seconds (N,)`` that were used of each file · ``errors``: why a file or one of
    its streams could not be used, else empty · ``about``: the weights they are of, by ``fingerprint``, and their
    preprocessing.
    """

    paths: list[str]
    audio: Tensor
    video: Tensor
    seconds: Tensor
    errors: list[str]
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def blank(cls, paths: Sequence[str], dim: int, about: dict[str, Any]) -> Embeddings:
        """A row for each path, in which nothing is yet; names hold whatever bytes can be printed."""
        names = [os.fsencode(path).decode(errors="replace") for path in paths]
        audio, video = torch.full((2, len(names), dim), math.nan)
        return cls(names, audio, video, torch.zeros(len(names), dtype=torch.float64), [""] * len(names), about)

    def __len__(self) -> int:
        return len(self.paths)

    def has(self, kind: Kind) -> Tensor:
        """Which files have an embedding of this modality, (N,) bool."""
        vectors: Tensor = getattr(self, kind)
        return ~vectors.isnan().any(1)

    @property
    def kinds(self) -> list[str]:
        """What each file has: ``audio+video``, ``audio``, ``video``, or nothing."""
        both = zip(self.has("audio").tolist(), self.has("video").tolist(), strict=True)
        return ["+".join(kind for kind, has in zip(KINDS, pair, strict=True) if has) for pair in both]

    def search(self, query: Tensor, kind: Kind, top: int = 5) -> list[tuple[str, float]]:
        """The files whose ``kind`` is most like ``query`` (D,), with their cosine similarity, best first.

        Equally similar ones are in the order of the table.
        """
        rows = self.has(kind).nonzero()[:, 0]
        vectors: Tensor = getattr(self, kind)[rows]
        similarity = normalize(vectors.double(), dim=1) @ normalize(query.double().cpu(), dim=0)
        order = similarity.argsort(descending=True, stable=True)[:top]
        return [(self.paths[rows[place]], float(similarity[place])) for place in order.tolist()]

    def write(self, path: str | Path) -> None:
        """Write a .parquet or .npz file, whole or not at all."""
        path = checked_suffix(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            (self._write_parquet if path.suffix == ".parquet" else self._write_npz)(file)

    @classmethod
    def read(cls, path: str | Path) -> Embeddings:
        """Read what ``write`` wrote; UserError where it is anything else."""
        path = checked_suffix(path)
        try:
            found = cls._read_parquet(path) if path.suffix == ".parquet" else cls._read_npz(path)
            found.about["fingerprint"], found.about["weights"]
            return found
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (OSError, ValueError, KeyError, EOFError, TypeError):  # Arrow's errors are ValueErrors, too
            raise UserError(f"{path}: holds no embeddings; `avcl embed` writes such files") from None

    def _write_parquet(self, file: Any) -> None:
        dim = self.audio.shape[1]
        columns = {"path": pa.array(self.paths), "kind": pa.array(self.kinds)}
        for kind, vectors in (("audio", self.audio), ("video", self.video)):
            values = pa.array(vectors.float().numpy().ravel())
            missing = pa.array((~self.has(kind)).numpy())  # type: ignore[arg-type]
            columns[kind] = pa.FixedSizeListArray.from_arrays(values, dim, mask=missing)
        columns["seconds"] = pa.array(self.seconds.double().numpy())
        columns["error"] = pa.array([error or None for error in self.errors], pa.string())
        table = pa.table(columns).replace_schema_metadata({"avcl": json.dumps(self.about)})
        pq.write_table(table, file)

    @classmethod
    def _read_parquet(cls, path: Path) -> Embeddings:
        table = pq.read_table(path)
        vectors = {}
        for kind in KINDS:
            column = table[kind].combine_chunks()
            flat = pa.compute.fill_null(column, [math.nan] * column.type.list_size).flatten()
            vectors[kind] = torch.from_numpy(flat.to_numpy().reshape(-1, column.type.list_size).copy())
        errors = [error or "" for error in table["error"].to_pylist()]
        seconds = torch.from_numpy(table["seconds"].to_numpy().copy())
        about = json.loads(table.schema.metadata[b"avcl"])
        return cls(table["path"].to_pylist(), **vectors, seconds=seconds, errors=errors, about=about)

    def _write_npz(self, file: Any) -> None:
        np.savez(
            file,
            path=np.array(self.paths, dtype=str),
            kind=np.array(self.kinds, dtype=str),
            audio=self.audio.float().numpy(),
            video=self.video.float().numpy(),
            seconds=self.seconds.double().numpy(),
            error=np.array(self.errors, dtype=str),
            about=np.array(json.dumps(self.about)),
        )

    @classmethod
    def _read_npz(cls, path: Path) -> Embeddings:
        with np.load(path, allow_pickle=False) as file:
            numbers = {key: torch.from_numpy(file[key]) for key in ("audio", "video", "seconds")}
            about = json.loads(str(file["about"]))
            return cls(file["path"].tolist(), **numbers, errors=file["error"].tolist(), about=about)


def checked_suffix(path: str | Path) -> Path:
    """The path; UserError where no format is known by its suffix."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"invalid value {str(path)!r}: must end in {' or '.join(SUFFIXES)}")
    return Path(path)
