"""The run files that come with avcl: the folder ``examples`` of a clone, the package ``avcl.examples`` of a wheel."""

import logging
import os
from pathlib import Path

from avcl.errors import UserError, nearest
from avcl.utils.atomic import claim

log = logging.getLogger(__name__)


def bundled_files() -> dict[str, Path]:
    """The bundled run files by name."""
    home = Path(__file__).resolve().parents[1]
    found = [*home.glob("examples/*.yaml")] or [*home.parent.glob("examples/*.yaml")]
    return {path.stem: path for path in sorted(found)}


def find_file(name: str | Path) -> Path:
    """The file of that name, else NAME.yaml in this folder, else the bundled run file; UserError suggests one."""
    path = Path(name)
    found = _first(str(name), path, Path(f"{name}.yaml"))
    if found is not path and "RANK" not in os.environ:  # said once, not by each of several processes
        log.info("run file %s", found)
    return found


def find_base(name: str, of: Path) -> Path:
    """The run file on which the file ``of`` is based: another one in its folder, else a bundled one."""
    beside = of.parent / name, of.parent / f"{name}.yaml"
    return _first(name, *(path for path in beside if path.resolve() != of.resolve()))


def _first(name: str, *files: Path) -> Path:
    """The first of ``files`` that is there, else the bundled one, in whose name - is as good as _."""
    bundled = bundled_files()
    for choice in (*files, bundled.get(name.replace("-", "_"))):
        if choice is not None and choice.exists() and not choice.is_dir():
            return choice
    raise UserError(f"{name}: no such file, nor a bundled run file{nearest(Path(name).stem, bundled)}")


def copy_file(name: str, out: Path) -> Path:
    """``out``, into which the bundled run file was copied; UserError where it exists, or nothing has that name."""
    bundled = bundled_files()
    source = bundled.get(name.replace("-", "_"))
    if source is None:
        raise UserError(f"unknown run file {name!r}{nearest(name, bundled)}")
    with claim(out) as file:
        if file is None:
            raise UserError(f"{out}: exists already; give another file with --out")
        file.write(source.read_bytes())
    return out
