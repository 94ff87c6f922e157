"""Lists of clips as datasets publish them; each reader is named for its source, and a file shows which one it is of."""

import csv
from collections.abc import Iterator
from pathlib import Path

from avcl.data.lists import audioset, cav_mae, stella, vggsound, vggsound_files
from avcl.data.lists.row import Row as Row
from avcl.errors import BadClip, UserError

TABLES = (vggsound, vggsound_files, audioset, stella)


def read_list(path: Path, root: Path) -> Iterator[Row | BadClip]:
    """The clips of a list, in its order; a row that cannot be used comes out as a BadClip with its place.

    Paths in a list count from ``root``. UserError where the file is none of the known lists, or has no good row, or a
    path that leads out of ``root``.
    """
    if path.suffix.lower() == ".json":
        yield from cav_mae.read_json(path, root)
        return
    rows = list(table(path))
    reader = next((reader for _, fields in rows for reader in TABLES if reader.fits(fields)), None)
    if reader is None:
        known = "; ".join(f"{reader.SOURCE}'s {', '.join(reader.COLUMNS)}" for reader in TABLES)
        found = f"has {len(rows[0][1])} columns" if rows else "is empty"
        raise UserError(f"{path}: {found}, and is no list that can be read; those are CAV-MAE's .json; {known}")
    for line, fields in rows:
        where = f"{path}:{line}"
        if len(fields) != len(reader.COLUMNS):
            told = f"{len(fields)} columns, not {len(reader.COLUMNS)}: {', '.join(reader.COLUMNS)}"
            yield BadClip(where, told)
            continue
        try:
            yield reader.parse(fields, root)
        except ValueError as error:
            yield BadClip(where, str(error))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def label_names(path: Path) -> dict[str, str]:
    """The display name of every label of a ``class_labels_indices.csv``, by its mid."""
    rows = table(path)
    _, header = next(rows, (0, []))
    for column in ("mid", "display_name"):
        if column not in header:
            raise UserError(f"{path}: has no column {column!r}; its first line should be index,mid,display_name")
    mid, name = header.index("mid"), header.index("display_name")
    return {fields[mid]: fields[name] for _, fields in rows if len(fields) == len(header)}


def table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of a CSV file without its comments and empty lines; any line ends, with a BOM or without."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for fields in reader:
                if fields and any(fields) and not fields[0].startswith("# "):
                    yield reader.line_num, [field.strip() for field in fields]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a CSV file: {error}") from None
