"""Names of files in lists and in stores, which others may have made: none leads out of the folder that it counts from.

That folder, and lists that a setting names, are the user's own and may lie anywhere. So may what links in the folder
lead to: whoever made the folder laid them, and media are often spread over disks.
"""

import os
from pathlib import Path

from avcl.errors import UserError

PATH, PART = 4095, 255  # bytes that the system allows


def below(root: str | Path, name: str) -> str:
    """The path of ``name`` in ``root``; UserError where it leads out of it, or can be no path.

    An absolute one must lie in ``root``; ``..`` is never allowed, as links make it lead anywhere.
    """
    path = os.path.join(root, name)
    parts = Path(name).parts
    why = ""
    if "\0" in name:
        why = "has a NUL"
    elif len(os.fsencode(path)) > PATH or any(len(os.fsencode(part)) > PART for part in parts):
        why = "is too long for a path"
    elif ".." in parts or elsewhere(root, name):
        why = "leads out of its folder"
    if why:
        raise UserError(f"the path {name[:80]!r}{'...' if len(name) > 80 else ''} {why}")
    return path


def elsewhere(root: str | Path, name: str) -> bool:
    """Whether ``name`` is an absolute path outside of ``root``, as lists have them of their authors' disks."""
    roots = (os.path.abspath(root), os.path.realpath(root)) if str(root) else ()
    return os.path.isabs(name) and not any(Path(name).is_relative_to(place) for place in roots)
