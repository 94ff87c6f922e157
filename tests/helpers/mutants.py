"""Media files with damage at random places, and what a plain decoder makes of the same bytes."""

import itertools
import random

import av
import numpy as np

from helpers.material import KINDS, sine, write_clip

ROUNDING = 0.001
MORE = {
    "fragmented.mp4": {"muxing": {"movflags": "frag_keyframe+empty_moov"}},
    "faststart.mp4": {"muxing": {"movflags": "faststart"}, "coding": {"g": "8", "bf": "0"}},
    "lossless.mkv": {"video": "ffv1", "audio": "flac"},
    "h265.mp4": {"video": "libx265", "coding": {"x265-params": "log-level=none:pools=1:frame-threads=1"}},
    "mjpeg.avi": {"video": "mjpeg", "pixels": "yuvj420p", "audio": "pcm_s16le"},
    "pcm.mov": {"coding": {"g": "10"}, "audio": "pcm_s16le"},
}


def good_files(folder, seconds=2.0):
    """A good clip of each container and codec."""
    kinds = {f"plain.{ending}": settings for ending, settings in KINDS.items()} | MORE
    tone = sine(seconds, 48000, 330.0)
    made = []
    for name, settings in kinds.items():
        rate = settings.get("rate", 44100)
        settings = {"coding": {"g": "12"}, **settings}
        tracks = [{0: tone[: round(seconds * rate)], 1: tone[: round(seconds * rate)]}]
        made.append(write_clip(folder / name, seconds=seconds, fps=12, size=(64, 48), tracks=tracks, **settings))
    return made


def mutated(data, other, chance):
    """The bytes of a file with one to four places flipped, cut out, zeroed, cut off, or replaced by another file's."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at, length = chance.randrange(len(data)), chance.choice((1, 4, 30, 300, 3000))
        match chance.randrange(6):
            case 0 | 1:
                for _ in range(chance.choice((1, 1, 8, 50))):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 2:
                del data[at : at + length]
            case 3:
                data[at : at + length] = bytes(len(data[at : at + length]))
            case 4:
                start = chance.randrange(len(other))
                data[at : at + length] = other[start : start + length]
            case 5:
                # a header is short, and the most is in it
                place = chance.randrange(min(len(data), 1200))
                data[place] = chance.randrange(256)
        if not data:
            break
    return bytes(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.1 else data)


def write_mutants(root, count, seed=0):
    """So many of them as a folder of two tasks, with good ones among them."""
    chance = random.Random(seed)
    good = good_files(root.parent / "good")
    contents = [path.read_bytes() for path in good]
    for number in range(count):
        kind, other = chance.randrange(len(good)), chance.randrange(len(good))
        folder = root / ("train" if number % 5 else "eval") / f"task {number % 2}" / "class"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d} {good[kind].name}").write_bytes(mutated(contents[kind], contents[other], chance))
    for split in ("train", "eval"):
        for task in range(2):
            for path in good[::4]:
                (root / split / f"task {task}" / "class" / path.name).write_bytes(path.read_bytes())
    return root


def plain_decode(path):
    """(time, picture (H, W, 3)) of every frame in the decoder's order, from the beginning as far as it gets."""
    found = []
    try:
        with av.open(path, metadata_errors="replace") as container:
            stream = next(stream for stream in container.streams.video)
            stream.codec_context.thread_count = 1
            begin = (container.start_time or 0) / av.time_base
            for frame in container.decode(stream):
                stamp = frame.dts if frame.pts is None else frame.pts
                time = float((stamp or 0) * (frame.time_base or 0)) - begin
                picture = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                found.append((time, picture))
    except (av.error.FFmpegError, IndexError, StopIteration):
        pass
    return found


def shown(decoded, times):
    """The picture at each time: the last one before any that begins later, or else the first."""
    found = []
    for time in times:
        before = list(itertools.takewhile(lambda frame: frame[0] <= time + ROUNDING, decoded))  # noqa: B023
        found.append((before or decoded)[-1 if before else 0][1])
    return found
