"""The JSON lists of CAV-MAE and its kin: ten pictures in ``video_path/frame_k/video_id.jpg`` and a wav, or a video."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from avcl.data.lists.row import Row, stems_of, taken_apart
from avcl.errors import BadClip, UserError

KEYS = ("video_id", "wav", "video_path", "labels")
RATE = 1.0


def read_json(path: Path, root: Path) -> Iterator[Row | BadClip]:
    """The clips of ``{"data": [{"video_id", "wav", "video_path", "labels"}]}``; an entry that lacks one is bad."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    except (OSError, ValueError, RecursionError) as error:  # no text, a number or nesting beyond all bounds
        raise UserError(f"{path}: cannot be read: {error}") from None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        raise UserError(f'{path}: no clips in it; must be {{"data": [{{{", ".join(KEYS)}}}]}}')
    for number, entry in enumerate(data):
        given = entry if isinstance(entry, dict) else {}
        lacking = [key for key in KEYS if not isinstance(given.get(key), str) or not given[key]]
        if lacking:
            yield BadClip(f"{path}:data[{number}]", f"no {' and no '.join(lacking)}")
            continue
        video, wav, folder, labels = (given[key] for key in KEYS)
        pictures = os.path.join(folder, "frame_*", f"{video}.jpg")
        try:
            files = taken_apart(root, pictures, wav, RATE)
        except UserError as error:
            raise UserError(f"{path}:data[{number}]: {error}") from None
        found = tuple(part.strip() for part in labels.split(","))
        stems = stems_of(video, Path(wav).stem)
        yield Row(video, found, stems=stems, **files)
