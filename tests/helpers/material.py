"""Writes small real media files, so that tests read what users have: sight, sound and damage."""

import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from avcl.data.decode import frames
from avcl.errors import BadClip

QUICK = {"libx264": {"preset": "veryfast", "threads": "1"}, "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"}}
# what suits each kind of container, for write_clip
KINDS = {
    "mp4": {},
    "mov": {},
    "mkv": {},
    "webm": {"video": "libvpx-vp9", "audio": "libopus", "rate": 48000},
    "flv": {"video": "flv", "audio": "libmp3lame"},
    "ts": {},
    "avi": {"video": "mpeg4", "audio": "libmp3lame"},
    "mpg": {"video": "mpeg2video", "audio": "mp2"},
}
Paint = Callable[[float, int, int], np.ndarray]


def clock(time: float, height: int, width: int) -> np.ndarray:
    """A picture (height, width, 3) that tells its time: 16 bars, white where that bit of its milliseconds is set."""
    bits = round(1000 * time) >> np.arange(16) & 1
    row = np.repeat(255 * bits[np.arange(width) * 16 // width], 3).reshape(1, width, 3)
    return row.repeat(height, 0).astype(np.uint8)


def read_clock(picture: np.ndarray) -> float:
    """The time in seconds that a decoded ``picture (3, H, W)`` tells."""
    bars = np.array_split(np.asarray(picture, float).mean((0, 1)), 16)
    return sum(int(bar.mean() > 127) << bit for bit, bar in enumerate(bars)) / 1000


def quarters(time: float, height: int, width: int) -> np.ndarray:
    """Red above green on the left, blue above white on the right."""
    picture = np.zeros((height, width, 3), np.uint8)
    up, left = height // 2, width // 2
    picture[:up, :left, 0] = picture[up:, :left, 1] = picture[:up, left:, 2] = picture[up:, left:] = 255
    return picture


def snow(time: float, height: int, width: int) -> np.ndarray:
    """Noise (height, width, 3), which cannot be compressed."""
    return np.random.default_rng(round(1000 * time)).integers(0, 256, (height, width, 3), np.uint8)


def sine(seconds: float, rate: int, pitch: float = 440.0, loudness: float = 0.5) -> np.ndarray:
    """A tone (samples,)."""
    time = np.arange(round(seconds * rate)) / rate
    return (loudness * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def write_clip(
    path: Path,
    *,
    seconds: float = 5.0,
    fps: int = 25,
    times: Sequence[float] | None = None,
    size: tuple[int, int] = (128, 96),
    paint: Paint = clock,
    video: str | None = "libx264",
    pixels: str = "yuv420p",
    coding: Mapping[str, str] | None = None,
    audio: str | None = "aac",
    rate: int = 44100,
    layout: str = "stereo",
    tracks: Sequence[Mapping[int, np.ndarray]] | None = None,
    muxing: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """A file with a picture (``video=None``: without) and sound (``audio=None``: without).

    ``times``: when the frames are shown, instead of ``fps`` for ``seconds`` · ``tracks``: for each audio
    track, what each channel plays; by default one track with a tone in every channel.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clock = Fraction(1, 1000) if times else Fraction(1, fps)
    times = times or [k / fps for k in range(round(seconds * fps))]
    with av.open(str(path), "w", options=dict(muxing or {})) as container:
        if title:
            container.metadata["title"] = title
        if video:
            picture = container.add_stream(video, rate=fps, options={**QUICK.get(video, {}), **(coding or {})})
            picture.width, picture.height, picture.pix_fmt = *size, pixels
            picture.codec_context.time_base = clock
        if audio and tracks is None:
            channels = len(av.AudioLayout(layout).channels)
            tracks = [dict.fromkeys(range(channels), sine(seconds, rate))]
        sounds = [container.add_stream(audio, rate=rate, layout=layout) for _ in tracks or ()] if audio else []
        packets = []
        if video:
            packets += _pictures(picture, times, clock, size, paint)
        for stream, track in zip(sounds, tracks or (), strict=False):
            packets += _sounds(stream, track)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def _pictures(
    stream: av.VideoStream, times: Sequence[float], clock: Fraction, size: tuple[int, int], paint: Paint
) -> list:
    packets = []
    for time in times:
        frame = av.VideoFrame.from_ndarray(paint(time, size[1], size[0]), format="rgb24")
        frame.pts, frame.time_base = round(time / clock), clock
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sounds(stream: av.AudioStream, track: Mapping[int, np.ndarray]) -> list:
    """``track``: what the channel of each number plays; the others are silent."""
    samples = np.zeros((len(stream.layout.channels), max(map(len, track.values()))), np.float32)
    for channel, wave in track.items():
        samples[channel, : len(wave)] = wave
    queue, packets = av.AudioFifo(), []
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = stream.rate, 0, Fraction(1, stream.rate)
    queue.write(frame)
    convert = av.AudioResampler(format=stream.format)
    while (part := queue.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
        for converted in convert.resample(part):
            packets += stream.encode(converted)
    return packets + stream.encode(None)


def write_album(path: Path, seconds: float = 5.0, rate: int = 44100) -> Path:
    """Sound with a cover picture: a video stream in name only."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=rate, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(_pictures(cover, [0.0], Fraction(1), (64, 48), quarters))
        container.mux(_sounds(sound, {0: sine(seconds, rate)}))
    return path


def truncate(path: Path, share: float) -> Path:
    """Cut the file off after a share of its bytes, as a broken download does."""
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    return path


def rotate(path: Path) -> Path:
    """Mark the picture of an mp4 file as held sideways: to be turned clockwise by 90 degrees, as phones do."""
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    header = data.index(b"tkhd")
    at = data.index(upright, header)
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    return path


def overwrite(path: Path, share: float, count: int) -> Path:
    """Replace ``count`` bytes at a share of the file by noise, as a failing disk does."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    data[at : at + count] = np.random.default_rng(0).bytes(count)
    path.write_bytes(data)
    return path


def told(path: Path, times: Sequence[float]) -> list[float]:
    """The times that the pictures at ``times`` tell."""
    return [read_clock(picture) for picture in frames(str(path), times)]


def readings(dataset: Any) -> dict[str, Any]:
    """Every sample of files or a store by the name of its clip, or why there is none."""
    found = {}
    for number, source in enumerate(dataset.sources):
        try:
            found[source.name] = dataset[number]
        except BadClip as bad:
            found[source.name] = (bad.path, bad.reason)
    return found


def assert_alike(one: Any, other: Any) -> None:
    """Two data sets of the same clips in the same order, equal to the last bit."""
    one, other = readings(one), readings(other)
    assert list(one) == list(other)
    for name, item in one.items():
        if isinstance(item, tuple):
            assert other[name] == item
        else:
            assert item.keys() == other[name].keys()
            assert all(np.array_equal(item[key], other[name][key]) for key in item), name


def refusal(read: Callable, *args: Any, **kwargs: Any) -> str:
    """Why ``read`` refuses a clip; the test fails where it does not."""
    with pytest.raises(BadClip) as bad:
        read(*args, **kwargs)
    return bad.value.reason
