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
    """Every picture of the clip at the rate of the store, coded."""
    count = max(1, round(min(found.video or 0.0, form.seconds) * form.rate))
    for picture in source.each_picture([number / form.rate for number in range(count)]):
        small = transforms.shrink(picture, form.height, form.width)
        coded = io.BytesIO()
        image = Image.fromarray(small.permute(1, 2, 0).contiguous().numpy())
        image.save(coded, form.codec, **({"quality": form.quality} if form.codec == "jpeg" else {}))
        yield coded.getvalue()
