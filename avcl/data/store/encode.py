"""One clip as a row of a prepared store: all of its pictures at a rate and a size, and its sound."""

import io
import os
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image

from avcl.data import decode, transforms
from avcl.data.source import Record, Source, inspect
from avcl.data.store.format import Form
from avcl.data.store.shard import FACTS
from avcl.errors import BadClip

MEMORY = 2**28  # bytes of decoded pictures that one process holds at a time


def row_of(clip: Record, form: Form) -> dict[str, Any]:
    """The row of a clip; one that cannot be decoded has its reason."""
    source = clip.source
    texts = (clip.split, clip.task, clip.label, source.name, source.path)  # file names may hold any bytes
    row: dict[str, Any] = dict(zip(FACTS, (os.fsencode(text).decode(errors="replace") for text in texts), strict=False))
    row |= {"index": source.index}
    row |= {"digest": source.digest(), "reason": "", "video": None, "audio": None, "frames": [], "sound": b""}
    try:
        found = inspect(source, 0.0, form.seconds)
        row |= {"video": found.video, "audio": found.audio}
        wave = source.sound(form.seconds)
        row["frames"] = list(_frames(source, found, form))
        row["sound"] = (wave * 2**15).to(torch.int16).numpy().tobytes()
    except BadClip as bad:
        row |= {"reason": bad.reason, "frames": []}
    return row


def _frames(source: Source, found: decode.Probe, form: Form) -> Iterator[bytes]:
    """Every picture of the clip at the rate of the store, coded; large ones are decoded a few at a time."""
    count = max(1, round(min(found.video or 0.0, form.seconds) * form.rate))
    step = max(8, MEMORY // (3 * max(1, found.width * found.height)))
    for start in source.bounds.timed(source.path, range(0, count, step)):
        times = [number / form.rate for number in range(start, min(start + step, count))]
        for picture in transforms.shrink(source.pictures(times), form.height, form.width):
            coded = io.BytesIO()
            image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
            image.save(coded, form.codec, **({"quality": form.quality} if form.codec == "jpeg" else {}))
            yield coded.getvalue()
