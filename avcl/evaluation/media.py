"""Files of one's own: which there are, and what of each can be embedded."""

from __future__ import annotations

import glob
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchaudio.functional import resample

from avcl.data.file_scenario import ENDINGS
from avcl.data.preprocessing import Preprocessing
from avcl.data.source import Source, require_length
from avcl.errors import BadClip, UserError
from avcl.utils.console import counted

log = logging.getLogger(__name__)

SOUNDS = (
    *(".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".wma", ".aif", ".aiff", ".aifc"),
    *(".au", ".caf", ".mka", ".ac3", ".mp2", ".amr", ".wv"),
)
"""Endings of files of sound alone, beside those of videos."""


class Read(NamedTuple):
    """What was read of a file: ``frames (T, 3, H, W)`` and ``mel (1, times, mels)``, each as far as it can be used.

    ``seconds`` that were used · ``fault``: why the file, or a stream that it has, cannot be used.
    """

    frames: Tensor | None
    mel: Tensor | None
    seconds: float = 0.0
    fault: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing of the file can be used."""
        return self.frames is None and self.mel is None


@dataclass
class Media(Dataset):
    """Media files, each with the sound and the pictures that it has; what cannot be used comes with its fault."""

    paths: Sequence[str]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Read:
        return read(self.paths[number], self.preprocessing)


def read(path: str, how: Preprocessing, kinds: Sequence[str] = ("video", "audio")) -> Read:
    """The middle window of a file's pictures and the sound of its start, exactly as an item of an evaluation.

    ``kinds``: the streams that are wanted, of which a file need not have more than one.
    """
    source, faults = Source(path, -1, -1, 0), []
    parts: dict[str, Tensor] = {}
    used = 0.0
    try:
        found = source.probe(how.seconds)
    except BadClip as bad:
        return Read(None, None, fault=bad.reason)
    lengths = {"video": found.video, "audio": found.audio}
    for kind in kinds:
        length = lengths[kind]
        if length is None:
            continue
        try:
            require_length(path, kind, length, how.window)
            if kind == "video":
                parts[kind] = how.to_frames(how.read_pictures(source, length))
            else:
                parts[kind] = how.to_mel(how.read_sound(source))
            used = max(used, min(length, how.seconds))
        except BadClip as bad:
            faults.append(bad.reason if kind in bad.reason else f"{kind}: {bad.reason}")
    if not parts and not faults:
        faults.append(f"no {' or '.join(kinds)} stream")
    return Read(parts.get("video"), parts.get("audio"), used, "; ".join(faults))


def media_files(places: Iterable[str | Path]) -> list[str]:
    """The media files that files, folders and patterns name, each once; UserError where one names none.

    A folder is searched however deep, for the usual endings; a file is taken whatever its ending.
    """
    found: dict[str, None] = {}
    for place in map(os.path.expanduser, map(str, places)):
        if os.path.isdir(place):
            mine = list(_within(Path(place)))
            if not mine:
                raise UserError(f"{place}: holds no audio or video files (.mp4, .wav, ...)")
        elif os.path.exists(place):
            mine = [place]
        else:
            mine = sorted(path for path in glob.glob(place, recursive=True) if os.path.isfile(path))
            if not mine:
                raise UserError(f"{place}: no such file or folder")
        found |= dict.fromkeys(mine)
    return list(found)


def _within(folder: Path) -> Iterator[str]:
    """The media files below a folder by name, without hidden ones; others are counted in the log."""
    others: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(name for name in names if name[0] != "."):
            if Path(name).suffix.lower() in (*ENDINGS, *SOUNDS):
                yield os.path.join(parent, name)
            else:
                others[Path(name).suffix or name] += 1
    if others:
        files = counted(others.total(), "file")
        log.info("%s of %s with other endings not read: %s", files, folder, ", ".join(sorted(others)))


def mel_of(waveform: Any, rate: int | None, how: Preprocessing) -> Tensor:
    """The log-mel (1, times, mels) of a waveform (samples,) or (channels, samples), which is mixed and resampled."""
    if rate is None:
        raise UserError("rate: required with a waveform: its samples per second")
    wave = torch.as_tensor(waveform)
    if wave.ndim not in (1, 2) or not wave.numel():
        raise UserError(f"waveform: invalid shape {tuple(wave.shape)}: must be (samples,) or (channels, samples)")
    if not wave.is_floating_point():
        wave = wave / (torch.iinfo(wave.dtype).max + 1)
    wave = wave.float() if wave.ndim == 1 else wave.float().mean(0)
    wave = resample(wave, rate, how.sample_rate)[: math.ceil(how.heard * how.sample_rate)]
    require_length("waveform", "audio", len(wave) / how.sample_rate, min(how.window, how.heard))
    return how.to_mel(wave)


def frames_of(pictures: Any, how: Preprocessing) -> Tensor:
    """The frames (T, 3, H, W) of pictures of one window, uint8; of more than are wanted some at even distances."""
    given, wanted = torch.as_tensor(pictures), how.frames
    if given.ndim == 4 and given.shape[1] != 3 and given.shape[-1] == 3:
        given = given.movedim(-1, 1)
    if given.ndim != 4 or given.shape[1] != 3 or given.dtype != torch.uint8:
        raise UserError(
            f"frames: invalid value of {given.dtype} {tuple(given.shape)}: must be uint8 "
            "(T, 3, height, width) or (T, height, width, 3)"
        )
    if len(given) < wanted:
        raise BadClip("frames", f"{len(given)} of a window, fewer than {wanted}")
    return how.to_frames(given[[len(given) * k // wanted for k in range(wanted)]])
