"""Reads pictures and sound out of media files; whatever cannot be used is a BadClip that says why.

Times are seconds from the start of the file, the moment when its first stream begins. FFmpeg's own messages
go nowhere: PyAV drops them unless somebody asks for them.
"""

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from torch import Tensor

from avcl.data.bounds import Bounds
from avcl.data.bounds import bad as bad
from avcl.faults import of_machine

RATE = 16000
"""Samples of sound per second, after decoding."""

ROUNDING = 0.001  # containers such as Matroska keep times in milliseconds
EARLY = 0.5  # a stream that ends earlier than its header says by more than this was cut off
OVERTIME = 0.125  # for so long after its end the last frame still stands
APART = 1.0  # the packets of two streams lie within so many seconds of each other

# how MP4 and QuickTime (after four bytes), Matroska and WebM, AVI begin
SIGNATURES = (b"ftyp", b"\x1a\x45\xdf\xa3", b"RIFF")

# FFmpeg's names of the containers that are read: recordings, which hold all they are. Not among them are lists of
# other files or addresses (concat, hls, dash, sdp), single pictures, raw video, subtitles and devices.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpeg,mpegts,mxf,ogg,nut,rm,dv,"
    "wav,w64,aiff,caf,au,mp3,flac,aac,ac3,eac3,dts,amr"
)

DEFAULT = Bounds()


@dataclass(frozen=True)
class Probe:
    """What a file holds, by its packets, without decoding.

    ``video``, ``audio``: seconds until the first stream of that kind ends, None where there is none.
    """

    video: float | None = None
    audio: float | None = None
    width: int = 0
    height: int = 0
    fps: float = 0.0
    rate: int = 0
    channels: int = 0


def probe(path: str, until: float = math.inf, bounds: Bounds = DEFAULT) -> Probe:
    """Read a file's packets up to ``until``; BadClip where it is no media file, out of bounds, or was cut off before.

    Transport streams, fragmented MP4 and AVI do not say how long they were meant to be: cut off, they are
    just shorter.
    """
    with _reported(path, "file"), _opened(path, bounds) as container:
        facts: dict[str, float] = {}
        ends = _ends(container, until, bounds.timed(path, container.demux()))
        if video := _video(container):
            _prepare(path, video, bounds)
            size = video.codec_context
            facts |= {"video": ends.get(video.index, 0.0), "width": size.width, "height": size.height}
            facts |= {"fps": float(video.average_rate or 0)}
        if audio := _audio(container):
            _prepare(path, audio, bounds)
            facts |= {"audio": ends.get(audio.index, 0.0), "rate": audio.rate, "channels": audio.channels}
        for promised, end in _promises(container, ends):
            bounds.check_length(path, max(promised, end))
            if end < min(promised, until) - EARLY:
                raise bad(path, f"truncated: ends at {end:.1f} s of {promised:.1f} s")
        return Probe(**facts)  # type: ignore[arg-type]


def frames(path: str, times: Sequence[float], bounds: Bounds = DEFAULT) -> Tensor:
    """The pictures shown at ascending ``times``, upright: (T, 3, H, W) uint8."""
    return torch.stack(list(each_frame(path, times, bounds)))


def each_frame(path: str, times: Sequence[float], bounds: Bounds = DEFAULT) -> Iterator[Tensor]:
    """The pictures shown at ascending ``times``, upright, one after the other: (3, H, W) uint8.

    Each is the last frame that begins at or before its time, by the time stamps, which may be uneven; where
    there is none, the first frame. Always decoded from the beginning: entered in its middle, a damaged file gives
    other pictures, and so do whole ones of some formats.
    """
    count = 0
    with _reported(path, "video"), _opened(path, bounds) as container:
        stream = _video(container)
        if stream is None:
            raise bad(path, "no video stream")
        _prepare(path, stream, bounds)
        start = _start(container)
        decoded = ((_time(frame) - start, frame) for frame in bounds.timed(path, _frames(path, container, stream)))
        for picture in alike(path, map(_upright, _shown(decoded, times))):
            count += 1
            yield picture
    if count < len(times):
        raise bad(path, f"no picture at {times[count]:.1f} s")


def alike(path: str, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
    """The pictures of a clip; BadClip where one has another size."""
    size = None
    for picture in pictures:
        if picture.shape != (size or picture.shape):
            raise bad(path, "the picture changes its size midway")
        size = picture.shape
        yield picture


def sound(path: str, start: float = 0.0, seconds: float = math.inf, bounds: Bounds = DEFAULT) -> Tensor:
    """The first audio track from ``start`` for at most ``seconds``: (samples,) float32 in [-1, 1] at 16 kHz.

    Mixed down to one channel by FFmpeg's weights, which sum to one (for stereo: the average), in 16 bits, as
    in the extracted files of the papers. Always decoded from the beginning, so that any part equals that part
    of the whole. Sound that begins late has silence before it; sound that never changes is refused as silent.
    """
    with _reported(path, "audio"), _opened(path, bounds) as container:
        stream = _audio(container)
        if stream is None:
            raise bad(path, "no audio stream")
        _prepare(path, stream, bounds)
        wanted = math.ceil(min(seconds * RATE, sys.maxsize))
        wave = _mono(bounds.timed(path, _frames(path, container, stream)), _start(container) + start, wanted)
        if not len(wave):
            raise bad(path, f"no sound at {start:.1f} s")
        if wave.min() == wave.max():
            raise bad(path, "silent")
        return torch.from_numpy(wave.astype(np.float32) / 2**15)


@contextlib.contextmanager
def _reported(path: str, part: str) -> Iterator[None]:
    """Every complaint of FFmpeg, of the system too, becomes a BadClip."""
    try:
        yield
    except OSError as error:
        if of_machine(error):  # too many open files, say: not the clip's fault
            raise
        raise bad(path, (error.strerror or f"corrupt {part}").lower()) from None
    except (av.error.FFmpegError, IndexError):  # IndexError: PyAV, at a stream that appears midway
        raise bad(path, f"corrupt {part}") from None


def _opened(path: str, bounds: Bounds) -> InputContainer:
    """The open file; a title in an unknown encoding does no harm.

    Nothing but its own bytes is read: no other file and no address; and no picture that is beyond the bounds.
    """
    path = os.path.abspath(path)
    bounds.check_file(path)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    options |= {"max_pixels": str(bounds.pixels)}
    try:
        return av.open(path, options=options, metadata_errors="replace")
    except (av.error.InvalidDataError, av.error.EOFError, av.error.ArgumentError):
        raise bad(path, _not_opened(path)) from None


def _not_opened(path: str) -> str:
    """Why FFmpeg makes nothing of a file."""
    with open(path, "rb") as file:
        head = file.read(8)
    if not head:
        return "empty file"
    return "truncated" if head.startswith(SIGNATURES) or head[4:].startswith(SIGNATURES) else "not a media file"


def _prepare(path: str, stream: VideoStream | AudioStream, bounds: Bounds) -> None:
    if stream.codec_context is None:
        raise bad(path, f"no decoder for its {stream.type}")
    # The loader's workers are the parallelism; more threads cost more than they bring.
    stream.codec_context.thread_count = 1
    if isinstance(stream, VideoStream):
        bounds.check_picture(path, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(bounds.pixels)}


def _video(container: InputContainer) -> VideoStream | None:
    """The first stream of pictures; the cover of an album is none."""
    cover = Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def _audio(container: InputContainer) -> AudioStream | None:
    return next(iter(container.streams.audio), None)


def _start(container: InputContainer) -> float:
    return (container.start_time or 0) / av.time_base


def _ends(container: InputContainer, until: float, packets: Iterable[av.Packet]) -> dict[int, float]:
    """When the last packet of each stream ends, by stream index; stops reading a little after ``until``."""
    start, ends = _start(container), dict[int, float]()
    chosen = [stream.index for stream in (_video(container), _audio(container)) if stream]
    for packet in packets:
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard or packet.is_corrupt:
            continue
        begin = float(stamp * packet.time_base) - start
        if packet.stream_index in chosen and begin > until + APART:
            break
        end = begin + float((packet.duration or 0) * packet.time_base)
        ends[packet.stream_index] = max(end, ends.get(packet.stream_index, 0.0))
    return ends


def _promises(container: InputContainer, ends: dict[int, float]) -> Iterator[tuple[float, float]]:
    """(the end that the header promises, the end that was found) of the streams, or else of the file."""
    start, lengths = _start(container), 0
    for stream in (_video(container), _audio(container)):
        if stream and stream.duration and stream.time_base:
            lengths += 1
            promised = ((stream.start_time or 0) + stream.duration) * stream.time_base
            yield float(promised) - start, ends.get(stream.index, 0.0)
    if not lengths and container.duration:
        yield container.duration / av.time_base, max(ends.values(), default=0.0)


def _frames(path: str, container: InputContainer, stream: Any) -> Iterator[Any]:
    """The decoded frames of a stream from the beginning, without a last packet that was cut short."""
    for packet, following in itertools.pairwise(itertools.chain(container.demux(stream), [None])):
        if packet.is_corrupt and following is not None and not following.size:  # the empty one at the end
            continue
        for frame in packet.decode():
            if frame.is_corrupt:
                raise bad(path, f"corrupt {stream.type}")
            yield frame


def _shown(decoded: Iterable[tuple[float, av.VideoFrame]], times: Sequence[float]) -> Iterator[av.VideoFrame]:
    """The frame shown at each of the ascending ``times``, until there is none."""
    waiting, shown, end = list(times), None, -math.inf
    for begin, frame in decoded:
        while waiting and waiting[0] < begin - ROUNDING:
            yield shown or frame
            waiting.pop(0)
        if not waiting:
            return
        shown, end = frame, begin + float((frame.duration or 0) * (frame.time_base or 0)) + OVERTIME
    if shown:
        yield from (shown for time in waiting if time <= end)


def _time(frame: av.VideoFrame | av.AudioFrame) -> float:
    stamp = frame.dts if frame.pts is None else frame.pts
    return float((stamp or 0) * (frame.time_base or 0))


def _upright(frame: av.VideoFrame) -> Tensor:
    """(3, H, W) uint8, turned as the camera was held."""
    return torch.from_numpy(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).copy()).permute(2, 0, 1)


def _mono(frames: Iterator[av.AudioFrame], begin: float, wanted: int) -> np.ndarray:
    """(samples,) int16 from ``begin`` on, as many as ``wanted`` or as there are."""
    first = next(frames, None)
    if first is None:
        return np.zeros(0, np.int16)
    late = round((_time(first) - begin) * RATE)
    parts, count = [np.zeros(min(max(late, 0), wanted), np.int16)], late
    for part in _resampled(itertools.chain([first], frames)):
        parts.append(part.to_ndarray()[0])
        count += part.samples
        if count >= wanted:
            break
    return np.concatenate(parts)[max(-late, 0) :][:wanted]


def _resampled(frames: Iterable[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """One channel of 16 bits at 16 kHz; the format may change midway."""
    for _, alike in itertools.groupby(frames, lambda f: (f.format.name, f.layout.name, f.sample_rate)):
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        for frame in itertools.chain(alike, [None]):  # None: the samples that the resampler still holds
            yield from (part for part in resampler.resample(frame) if part is not None)
