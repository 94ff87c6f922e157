"""The run files that come with avcl: the folder ``examples`` of a clone, the package ``avcl.examples`` of a wheel."""

import logging
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
    path, bundled = Path(name), bundled_files()
    for choice in (path, Path(f"{name}.yaml"), bundled.get(str(name))):
        if choice is not None and choice.exists() and not choice.is_dir():
            if choice is not path:
                log.info("run file %s", choice)
            return choice
    raise UserError(f"{name}: no such file, nor a bundled run file{nearest(path.stem, bundled)}")


def copy_file(name: str, out: Path) -> Path:
    """``out``, into which the bundled run file was copied; UserError where it exists, or nothing has that name."""
    bundled = bundled_files()
    if name not in bundled:
        raise UserError(f"unknown run file {name!r}{nearest(name, bundled)}")
    try:
        with claim(out) as file:
            if file is None:
                raise UserError(f"{out}: exists already; give another file with --out")
            file.write(bundled[name].read_bytes())
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    return out
