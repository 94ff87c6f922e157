"""``avcl embed`` and ``avcl search``: what trained weights make of one's own files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avcl.cli.arguments import BatchSize, Device, Workers
from avcl.errors import UserError

if TYPE_CHECKING:
    from avcl.evaluation.embedder import Embedder
    from avcl.evaluation.embeddings import Embeddings

# Commands import what they need when they run: `avcl --help` and completion must not wait for torch.

TABLES = (".parquet", ".npz")


def _checked(out: Path) -> Path:
    if out.suffix not in TABLES:
        raise UserError(f"--out: invalid value {str(out)!r}: must end in {' or '.join(TABLES)}")
    return out


Source = Annotated[
    str,
    typer.Argument(
        metavar="WEIGHTS",
        help="A weights file, a run folder, a saved folder, or a model's name on the Hugging Face Hub.",
        show_default=False,
    ),
]


def embed(
    weights: Source,
    files: Annotated[
        list[str], typer.Argument(help="Audio and video files, folders of them, or patterns.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(callback=_checked, help="The .parquet or .npz file to write.", show_default=False)
    ],
    device: Device = "auto",
    batch_size: BatchSize = 16,
    workers: Workers = 0,
) -> None:
    """Embed audio and video files with trained weights, which know their preprocessing."""
    from avcl.evaluation.embeddings import KINDS
    from avcl.utils.console import counted, write

    found = _embedded(_embedder(weights, device, batch_size, workers), files)
    found.write(out)
    both = ", ".join(f"{int(found.has(kind).sum()):,} with {kind}" for kind in KINDS)
    write(f"{out}: {counted(len(found), 'file')}, {both}, {found.audio.shape[1]} dimensions")


def search(
    weights: Source,
    index: Annotated[
        str,
        typer.Option(help="Folder of files to search, or what `avcl embed` wrote of them.", show_default=False),
    ],
    sound: Annotated[
        Path | None, typer.Option(help="File whose sound is the query: finds videos.", show_default=False)
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="File whose pictures are the query: finds sounds.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Files to show.")] = 5,
    same: Annotated[bool, typer.Option("--same", help="A sound finds sounds, a video finds videos.")] = False,
    device: Device = "auto",
    batch_size: BatchSize = 16,
    workers: Workers = 0,
) -> None:
    """Search files by a sound or by a video: the most similar first, by cosine similarity of embeddings."""
    if (sound is None) == (video is None):
        raise UserError("--sound, --video: give one of them")

    from avcl.errors import BadClip
    from avcl.utils.console import write

    embedder = _embedder(weights, device, batch_size, workers)
    try:
        query = embedder.embed_audio(sound) if sound else embedder.embed_video(video)  # type: ignore[arg-type]
    except BadClip as bad:
        raise UserError(str(bad)) from None
    table = _index(embedder, index)
    asked = "audio" if sound else "video"
    other = "video" if sound else "audio"
    found = table.search(query, asked if same else other, top)  # type: ignore[arg-type]
    if not found:
        told = "" if same else f"; --same searches by {asked} alone"
        raise UserError(f"{index}: no file in it has {asked if same else other}{told}")
    write(*(f"{similarity:+.3f}  {path}" for path, similarity in found))


def _embedder(source: str, device: str, batch_size: int, workers: int) -> Embedder:
    from avcl.evaluation.embedder import Embedder

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one line of ours ends its retries
    return Embedder.from_pretrained(source, device=device, batch_size=batch_size, workers=workers)


def _embedded(embedder: Embedder, places: list[str]) -> Embeddings:
    """The files at these places; UserError where none of them can be embedded."""
    found = embedder.embed_files(*places)
    if not any(found.kinds):
        many = f"none of {len(found):,} files can be embedded; the first: " if len(found) > 1 else ""
        raise UserError(f"{many}{found.paths[0]}: {found.errors[0]}")
    return found


def _index(embedder: Embedder, index: str) -> Embeddings:
    """The embeddings of a folder, or those in a file: of these weights alone."""
    from avcl.evaluation.embeddings import Embeddings

    if Path(index).suffix not in TABLES or Path(index).is_dir():
        return _embedded(embedder, [index])
    table = Embeddings.read(index)
    if table.about["fingerprint"] != embedder.fingerprint:
        raise UserError(
            f"{index}: embeddings of other weights ({table.about['weights']}) than {embedder.source}; make it again "
            f"with `avcl embed {embedder.source} FILES --out {index}`"
        )
    return table
