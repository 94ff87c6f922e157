"""How many bytes a clip takes and how many clips a second are read: from files, and from stores made of them.

avcl bench data [--clips 3] [--rounds 3]

Its clips are 10 s long, with pictures that move and sound, made here: 640 x 360 at 30 frames a second, 1280 x 720 at
60. Counted are seconds of processor time, of one process with one thread, files in the system's cache; samples have
the published size, 4 frames of 224 x 224 and 1024 x 128 of log-mel.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from avcl.data import transforms
from avcl.data.dataset import Files
from avcl.data.preprocessing import Preprocessing
from avcl.data.source import Record, Source, glance
from avcl.data.store.format import Form, Store
from avcl.data.store.prepare import finish
from avcl.data.store.write import Making
from avcl.scenario import augmenting

SECONDS, RATE = 10, 44100
PREPROCESSING = Preprocessing()  # as published
KINDS = {"360p30": (640, 360, 30), "720p60": (1280, 720, 60)}


def measure_roads(clips: int = 3, rounds: int = 3) -> None:
    """Write what each road takes with so many ``clips`` of each kind, each read in so many ``rounds``."""
    torch.set_num_threads(1)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    say(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, PyAV {av.__version__}{load}")
    with tempfile.TemporaryDirectory() as folder:
        for kind, (width, height, fps) in KINDS.items():
            paths = [Path(folder) / f"{kind} {number}.mp4" for number in range(clips)]
            for number, path in enumerate(paths):
                write_clip(path, number, width, height, fps)
            say(f"\n{kind}, {clips} clips of {SECONDS} s")
            measure(Path(folder) / kind, paths, rounds)


def measure(folder: Path, paths: Sequence[Path], rounds: int) -> None:
    """Write what each road takes: bytes of a clip, and clips in a second of processor time."""
    sources = [Source(str(path), 0, 0, number, path.name) for number, path in enumerate(paths)]
    say("                       MB a clip   making   evaluating   training   (clips a second)")
    size = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
    measure_reading("files", size, None, sources, rounds)
    height, width = transforms.store_size(PREPROCESSING.height, PREPROCESSING.width)
    for codec, quality in (("jpeg", 90), ("png", 0)):
        form = Form(height, width, 8.0, SECONDS, codec, quality)
        clips = [Record("train", "task", "class", source) for source in sources]
        making = Making(folder / codec, clips, form)
        making.begin()
        seconds = taken(lambda making=making: list(making.make(making.missing(), workers=1)))  # type: ignore[misc]
        size = sum(shard["bytes"] for shard in finish(making.folder)["shards"]) / len(paths) / 1e6
        kept = [clip.source for clip in Store(making.folder).records]
        measure_reading(f"store, {codec} at 8 a second", size, len(paths) / seconds, kept, rounds)
    looking = taken(lambda: [(source.digest(), glance(source, PREPROCESSING.window, SECONDS)) for source in sources])
    say(f"check, of files: {len(paths) / looking:.1f} clips a second")


def measure_reading(name: str, size: float, making: float | None, sources: Sequence[Source], rounds: int) -> None:
    """Read every clip in ``rounds`` epochs, as evaluation and as training do, and write a line."""
    clips = Files(sources, PREPROCESSING)

    def evaluate() -> None:
        for number in range(rounds * len(clips)):
            clips[number % len(clips)]

    def train() -> None:
        for epoch in range(rounds):
            with augmenting(seed=0, epoch=epoch):
                for number in range(len(clips)):
                    clips[number]

    evaluate()  # what is loaded on first use
    evaluating, training = (len(clips) * rounds / taken(work) for work in (evaluate, train))
    made = f"{making:.1f}" if making else "-"
    say(f"{name:24}{size:8.2f}{made:>9}{evaluating:13.1f}{training:11.1f}")


def taken(work: Callable[[], object]) -> float:
    """Seconds of processor time."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def write_clip(path: Path, seed: int, width: int, height: int, fps: int) -> None:
    """A view that pans, something that crosses it, the grain of a camera, and a wandering tone in noise."""
    chance = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps, options={"threads": "1"})
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        for number, content in enumerate(scene(chance, width, height, fps)):
            frame = av.VideoFrame.from_ndarray(content, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        moment = np.arange(RATE * SECONDS) / RATE
        wave = 0.3 * np.sin(2 * np.pi * (300 * moment - 50 * np.cos(moment))) + 0.02 * chance.standard_normal(
            len(moment)
        )
        for start in range(0, len(wave), 1024):
            part = np.repeat(wave[None, start : start + 1024], 2, 0).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
            heard.sample_rate, heard.pts = RATE, start
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))


def scene(chance: np.random.Generator, width: int, height: int, fps: int) -> Iterator[np.ndarray]:
    """The pictures (height, width, 3) uint8."""
    back, side = texture(chance, 3 * height // 2, 3 * width // 2), height // 3
    thing = texture(chance, side, side)
    grain = chance.normal(0, 2, (8, height, width, 1)).round().astype(np.int16)
    for number in range(fps * SECONDS):
        time = number / fps
        down, right = int((1 + np.sin(0.5 * time)) * height / 4), int((1 + np.cos(0.4 * time)) * width / 4)
        view = back[down : down + height, right : right + width].astype(np.int16)
        down, right = (
            int((1 + np.sin(2 * time)) / 2 * (height - side)),
            int((1 + np.cos(1.6 * time)) / 2 * (width - side)),
        )
        view[down : down + side, right : right + side] = thing
        yield (view + grain[number % 8]).clip(0, 255).astype(np.uint8)


def texture(chance: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Something (height, width, 3) uint8 with the spectrum of natural pictures: amplitude falls with frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    found = np.fft.irfft2(np.fft.rfft2(chance.standard_normal((3, height, width))) / frequency**1.2, (height, width))
    found /= found.std((1, 2), keepdims=True)
    return (128 + 45 * found).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
