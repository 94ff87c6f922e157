"""Reads pictures and sound out of media files; whatever cannot be used is a BadClip that says why.

Times are seconds from the start of the file, the moment when its first stream begins. FFmpeg's own messages
go nowhere: PyAV drops them unless somebody asks for them.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition, Stream
from torch import Tensor

from avcl.errors import BadClip

RATE = 16000
"""Samples of sound per second, after decoding."""

ROUNDING = 0.001  # containers such as Matroska keep times in milliseconds
EARLY = 0.5  # a file whose streams end earlier than its header says by more than this is truncated
OVERTIME = 1 / 8  # for so long after its end the last frame still stands
RUN_UP = 1.0  # decoders need packets before the first one that counts; streams may run apart by as much

# the first bytes of MP4 and QuickTime (after the size of the box), Matroska and WebM, AVI
CONTAINERS = (b"ftyp", b"\x1a\x45\xdf\xa3", b"RIFF")


@dataclass(frozen=True)
class Probe:
    """What a file holds, by its packets, without decoding.

    ``video``, ``audio``: seconds until the first stream of that kind ends, None where there is none.
    """

    video: float | None
    audio: float | None
    fps: float | None
    width: int
    height: int
    rate: int
    channels: int


def probe(path: str, until: float = math.inf) -> Probe:
    """Read a file's packets up to ``until``; raises BadClip where it is no media file, or cut off before that."""
    with _opened(path, "file") as container:
        video, audio = _first(container, "video"), _first(container, "audio")
        ends = _ends(container, [s for s in (video, audio) if s], until)
        for declared, end in _promises(container, video, audio, ends):
            if end < min(declared, until) - EARLY:
                raise _bad(path, f"truncated: ends at {end:.1f} of {declared:.1f} s")
        return Probe(
            video=ends.get(video.index, 0.0) if video else None,
            audio=ends.get(audio.index, 0.0) if audio else None,
            fps=float(video.average_rate) if video and video.average_rate else None,
            width=video.codec_context.width if video and video.codec_context else 0,
            height=video.codec_context.height if video and video.codec_context else 0,
            rate=audio.codec_context.sample_rate if audio and audio.codec_context else 0,
            channels=audio.codec_context.channels if audio and audio.codec_context else 0,
        )


def frames(path: str, times: Sequence[float]) -> Tensor:
    """The pictures shown at ascending ``times``, upright: (T, 3, H, W) uint8.

    Each is the last frame that begins at or before its time, by the time stamps (which may be uneven);
    before the first frame it is the first one.
    """
    with _opened(path, "video") as container:
        stream = _first(container, "video")
        if stream is None:
            raise _bad(path, "no video stream")
        start = _start(container)
        shown = _shown(container, stream, [start + time for time in times])
        pictures = [_picture(frame) for frame in shown]
        if len(pictures) < len(times):
            raise _bad(path, f"no picture at {times[len(pictures)]:.1f} s")
        if len({picture.shape for picture in pictures}) > 1:
            raise _bad(path, "the picture changes its size midway")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def sound(path: str, start: float = 0.0, seconds: float = math.inf) -> Tensor:
    """The first audio track from ``start`` for at most ``seconds``: (samples,) float32 in [-1, 1] at 16 kHz.

    Mixed down to one channel by FFmpeg's matrix, whose weights sum to one (for stereo, the average), with
    16 bits, as in the extracted files of the papers. Sound that begins late is preceded by silence; sound
    that never changes is refused as mute.
    """
    with _opened(path, "audio") as container:
        stream = _first(container, "audio")
        if stream is None:
            raise _bad(path, "no audio stream")
        begin = _start(container) + start
        if start > RUN_UP:
            container.seek(int((begin - RUN_UP) / stream.time_base), stream=stream)
        wave = _mono(container, stream, begin, math.ceil(seconds * RATE) if seconds < math.inf else None)
        if not len(wave):
            raise _bad(path, f"no sound at {start:.1f} s")
        if wave.min() == wave.max():
            raise _bad(path, "mute")
        return torch.from_numpy(wave.astype(np.float32) / 2**15)


@contextlib.contextmanager
def _opened(path: str, part: str) -> Iterator[InputContainer]:
    """The open file; every complaint of FFmpeg becomes a BadClip, those after opening about ``part``."""
    opened = False
    try:
        # Text in other encodings must not matter; packets that are cut short are left out.
        options = {"fflags": "+discardcorrupt"}
        with av.open(os.path.abspath(path), options=options, metadata_errors="replace") as container:
            opened = True
            yield container
    except (av.InvalidDataError, av.EOFError):
        raise _bad(path, f"damaged {part}" if opened else _unreadable(path)) from None
    except av.DecoderNotFoundError:
        raise _bad(path, f"no decoder for its {part}") from None
    except (av.FFmpegError, OSError) as error:
        raise _bad(path, (error.strerror or "unreadable").lower()) from None


def _bad(path: str, reason: str) -> BadClip:
    return BadClip(os.fsencode(path).decode(errors="replace"), reason)


def _unreadable(path: str) -> str:
    """Why a file that FFmpeg makes nothing of is none."""
    with open(path, "rb") as file:
        head = file.read(8)
    if not head:
        return "empty file"
    return "truncated" if head.startswith(CONTAINERS) or head[4:] in CONTAINERS else "not a media file"


def _first(container: InputContainer, kind: Literal["video", "audio"]) -> Stream | None:
    """The first stream of a kind; the cover of an album is no video."""
    streams = (s for s in container.streams if s.type == kind)
    return next((s for s in streams if not s.disposition & Disposition.attached_pic), None)


def _start(container: InputContainer) -> float:
    return (container.start_time or 0) / av.time_base


def _ends(container: InputContainer, streams: Sequence[Stream], until: float) -> dict[int, float]:
    """When the last packet of each stream ends, by stream index; stops reading when ``streams`` are past ``until``."""
    start, chosen = _start(container), {s.index for s in streams}
    ends: dict[int, float] = {}
    for packet in container.demux():
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.is_discard:
            continue
        begins = float(stamp * packet.time_base) - start
        if packet.stream_index in chosen and begins > until + RUN_UP:
            break
        end = begins + float((packet.duration or 0) * packet.time_base)
        ends[packet.stream_index] = max(end, ends.get(packet.stream_index, 0.0))
    return ends


def _promises(
    container: InputContainer, video: Stream | None, audio: Stream | None, ends: dict[int, float]
) -> Iterator[tuple[float, float]]:
    """(when the header says that it ends, when it ended) for each stream, else for the whole file."""
    start, known = _start(container), False
    for stream in (video, audio):
        if stream and stream.duration and stream.time_base:
            known = True
            declared = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - start
            yield declared, ends.get(stream.index, 0.0)
    if not known and container.duration:
        yield container.duration / av.time_base, max(ends.values(), default=0.0)


def _shown(container: InputContainer, stream: Stream, times: Sequence[float]) -> Iterator[av.VideoFrame]:
    """The frame shown at each of the ascending ``times``, as long as there are any."""
    waiting = list(times)
    shown: av.VideoFrame | None = None
    for frame in _decoded_from(container, stream, times[0]):
        while waiting and waiting[0] < _time(frame) - ROUNDING:
            waiting.pop(0)
            yield shown or frame
        if not waiting:
            return
        shown = frame
    if shown is not None:
        end = _time(shown) + float((shown.duration or 0) * stream.time_base)
        yield from (shown for time in waiting if time <= end + OVERTIME)


def _decoded_from(container: InputContainer, stream: Stream, time: float) -> Iterator[av.VideoFrame]:
    """Frames in the order in which they are shown, from one at or before ``time`` if there is one."""
    stream.codec_context.thread_count = 1  # the workers of the loader are the parallelism
    first, back = _start(container), 0.0
    while time - back > first:
        # The key frame that seeking finds by decoding time may be shown later: then step further back.
        container.seek(int((time - back) / stream.time_base), stream=stream)
        decoded = container.decode(stream)
        frame = next(decoded, None)
        if frame is not None and _time(frame) <= time + ROUNDING:
            yield frame
            yield from decoded
            return
        back = 2 * back + RUN_UP
    container.seek(container.start_time or 0)
    yield from container.decode(stream)


def _time(frame: av.VideoFrame | av.AudioFrame) -> float:
    stamp = frame.pts if frame.pts is not None else frame.dts
    return float((stamp or 0) * frame.time_base)


def _picture(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8, turned as the camera was held."""
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


def _mono(container: InputContainer, stream: Stream, begin: float, wanted: int | None) -> np.ndarray:
    """(samples,) int16 from ``begin`` on, ``wanted`` of them or as many as there are."""
    stream.codec_context.thread_count = 1
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    parts: list[np.ndarray] = []
    missing = 0  # samples yet to come until ``wanted``
    for frame in container.decode(stream):
        if not parts:
            late = round((_time(frame) - begin) * RATE)
            parts.append(np.zeros(max(late, 0), np.int16))
            skip = max(-late, 0)
            missing = math.inf if wanted is None else wanted + skip - len(parts[0])
        ...
    return np.concatenate(parts)
