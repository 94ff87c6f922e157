"""How fast and how large the selection is, in ratios to what one would write in PyTorch.

avcl bench selection [--rounds 9] [--threads 2] [--device cpu] [--clips 12] [--cpu-time]

Times are medians over rounds in which every form has its turn, so that a busy machine slows all of them; where it is
very busy, one thread and ``--cpu-time`` still tell. Peaks of memory are those of fresh processes. "naive" is the
authors' form, "fallback" what runs without a compiler.
"""

import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from avcl.plugins.stella.ops import native, selection
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import OPS

Form = Callable[[], object]
Clock = Callable[[], float]

HEADS, AUDIO, VIDEO, WIDTH = 12, 512, 784, 64  # the published size
FREQS, CHUNK = 8, 4
SCALE, TEMPERATURE = WIDTH**-0.5, 0.4


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser("avcl bench selection", description="Ratios of the selection's forms.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=12, help="of one process, as the authors trained")
    parser.add_argument("--cpu-time", action="store_true", help="of the process, instead of time on the wall")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    device = torch.device(options.device)
    if options.peak:
        dtype, form = options.peak
        say(f"{peak(dtype, form):.1f}")
        return
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    say(f"{processor()}, torch {torch.__version__}, {options.threads} threads{load}{', CPU time' * options.cpu_time}")
    for name, how in native.lines():
        if name.endswith(device.type.upper()):
            say(f"    {name:24} {how}")
    torch.manual_seed(0)
    for dtype in ("float32", "bfloat16"):
        forms = importance_forms(dtype, device)
        time_forms(
            f"importance {dtype}, B=8 H={HEADS} M={AUDIO} N={VIDEO} d={WIDTH}", forms, device, clock, options.rounds
        )
        for form in forms if device.type == "cpu" else ():
            command = [sys.executable, "-m", __spec__.name, "--threads", str(options.threads), "--peak", dtype, form]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            say(f"    {form:24} {done.stdout.strip():>9} MB more at its peak")
    for title, forms in draw_forms(device).items():
        time_forms(title, forms, device, clock, options.rounds)
    title = f"whole selection of a step, {options.clips} clips and as many past ones"
    time_forms(title, step_forms(options.clips, device), device, clock, max(3, options.rounds // 2))


def processor() -> str:
    """The processor, by its own name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def time_forms(title: str, forms: dict[str, Form], device: torch.device, clock: Clock, rounds: int) -> None:
    """Write the median time of each form, and how many times faster than the first it is."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for turn in range(rounds + 1):
        for name, form in forms.items():
            wait()
            start = clock()
            form()
            wait()
            if turn:  # the first warms up
                times[name].append(clock() - start)
    say(f"\n{title}")
    naive, *_ = (statistics.median(taken) for taken in times.values())
    for name, taken in times.items():
        median = statistics.median(taken)
        say(f"    {name:24} {median * 1e3:9.3f} ms   {naive / median:6.1f} x")


def ours(form: Form, device: torch.device) -> dict[str, Form]:
    """A form as it is without libraries, and by the kernels of each instruction set that there are."""

    kernels: Any = {name: op.kernel for name, op in OPS.items()}

    def fallback() -> None:
        with patch.multiple(torch.ops.avcl, **kernels):
            form()

    def using(instructions: str) -> Form:
        def call() -> None:
            native.instructions(instructions)
            form()

        return call

    there = {backend.device for backend in native.backends() if backend.native}
    if device.type.upper() not in there:
        return {"fallback": fallback}
    if device.type != "cpu":
        return {"fallback": fallback, "native": form}
    return {"fallback": fallback} | {name: using(name) for name in native.INSTRUCTIONS if native.instructions(name)}


def importance_forms(dtype: str, device: torch.device, clips: int = 8) -> dict[str, Form]:
    """Importance of the video patches."""
    kind = getattr(torch, dtype)
    query, key = (torch.randn(clips, n, HEADS, WIDTH, device=device).to(kind).transpose(1, 2) for n in (AUDIO, VIDEO))
    return {
        "naive": lambda: (query @ key.mT * (SCALE / TEMPERATURE)).softmax(-1).mean((1, 2)),
        **ours(lambda: selection.importance(query, key, SCALE, TEMPERATURE), device),
    }


def peak(dtype: str, form: str) -> float:
    """Extra memory in MB at its highest, on Linux: the resident memory's high-water mark, set back before the call."""
    process = Path("/proc/self")

    def resident(line: str) -> int:
        return int((process / "status").read_text().partition(f"{line}:")[2].split()[0])

    importance_forms(dtype, torch.device("cpu"), clips=1)[form]()  # loads what is loaded on first use
    call = importance_forms(dtype, torch.device("cpu"))[form]
    (process / "clear_refs").write_text("5")
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 1024


def draw_forms(device: torch.device, clips: int = 48) -> dict[str, dict[str, Form]]:
    """What is drawn in a step, at the published batch size, and correlation."""
    to: Any = {"seed": 7, "index": torch.arange(clips, device=device)}
    audio, video = (torch.rand(clips, n, device=device) for n in (AUDIO, VIDEO))
    audio_pruned, video_pruned = audio < 0.25, video < 0.25
    length, keep, half = CHUNK * FREQS, AUDIO // 2, VIDEO // 2
    key = torch.randn(clips, VIDEO, HEADS, WIDTH, device=device).transpose(1, 2)
    past, now, top = key[:, :, 0], key[:, :, 1], selection.leading(video, half)

    def draw(form: Form) -> dict[str, Form]:  # the same for all instruction sets
        return {("native" if name in native.INSTRUCTIONS else name): form for name, form in ours(form, device).items()}

    def gathered() -> Tensor:
        drift = torch.einsum("bhld,bhd->bhl", key, past - now) * SCALE
        return torch.zeros_like(video).scatter(1, top, drift.sigmoid().mean(1).gather(1, top))

    return {
        f"select_chunks, B={clips}": {
            "naive, clip by clip": lambda: [walk(audio[i], audio_pruned[i], keep, length) for i in range(clips)],
            **draw(lambda: selection.select_chunks(audio, audio_pruned, keep, length, **to)),
        },
        f"sample, B={clips} N={VIDEO}": {
            "torch.multinomial": lambda: video.masked_fill(video_pruned, 1e-30).multinomial(half),
            **draw(lambda: selection.sample(video, video_pruned, half, use=Use.VIDEO, **to)),
        },
        f"prune, B={clips} N={VIDEO}: PyTorch only": {
            "torch.bernoulli": lambda: torch.bernoulli(video),
            "op": lambda: selection.prune(video, use=Use.PRUNE_VIDEO, **to),
        },
        f"correlation, B={clips} N={VIDEO}: PyTorch only": {
            "all patches at once": gathered,
            "op": lambda: selection.correlation(key, past, now, top, SCALE),
        },
    }


def walk(weight: Tensor, pruned: Tensor, keep: int, chunk: int) -> Tensor:
    """Algorithm 1 for one clip, chunk by chunk, as the authors do it: on a mask of what is dropped."""
    order = weight.view(-1, chunk).mean(1).multinomial(len(weight) // chunk)
    dropped, total, taken = pruned.clone(), 0, set()
    for turn in order.tolist():
        here = dropped[turn * chunk : (turn + 1) * chunk]
        total += int((~here).sum())
        if total - keep > chunk:
            here.fill_(True)
        elif total > keep:
            before, after = turn - 1 in taken, turn + 1 in taken
            left = (~here).nonzero().squeeze(1)
            head = random.random() < 0.5 if before == after else after
            here[left[: total - keep] if head else left[len(left) - (total - keep) :]] = True
            total = keep + chunk + 1  # all that come later are dropped
        taken.add(turn)
    return dropped.int().argsort(stable=True)[:keep]


def step_forms(clips: int, device: torch.device) -> dict[str, Form]:
    """All that a step does to select, in both modalities: as the authors do it, and by the ops."""
    sides = ("audio", AUDIO), ("video", VIDEO)
    tokens = [torch.randn(clips, n, HEADS, WIDTH, device=device).transpose(1, 2) for _, n in sides for _ in range(2)]
    audio_query, audio_key, video_query, video_key = tokens
    past_audio, past_video = (torch.randn(clips, HEADS, WIDTH, device=device) for _ in range(2))
    index = torch.arange(clips, device=device)

    def naive() -> None:
        # both maps are sorted by importance along both axes, then cut to their best corner
        maps = {"audio": video_query @ audio_key.mT * SCALE, "video": audio_query @ video_key.mT * SCALE}
        means = {side: (scores / TEMPERATURE).softmax(-1).mean((1, 2)) for side, scores in maps.items()}
        orders = {side: mean.argsort(1, descending=True) for side, mean in means.items()}
        drawn = {}
        for side, other, key, past in (
            ("audio", "video", audio_key, past_video),
            ("video", "audio", video_key, past_audio),
        ):
            order, rows = orders[side], orders[other]
            keep, keep_rows = order.shape[1] // 2, rows.shape[1] // 2
            corner = maps[side].gather(2, rows[:, None, :, None].expand_as(maps[side]))
            corner = corner.gather(3, order[:, None, None].expand_as(corner))[:, :, :keep_rows, :keep]
            share = means[other].gather(1, rows)[:, :keep_rows]
            now = (corner * (share / share.sum(1, keepdim=True))[:, None, :, None]).sum(2)
            then = torch.einsum("bhld,bhd->bhl", key, past) * SCALE
            then = then.gather(2, order[:, None].expand_as(then))[..., :keep]
            both = torch.stack([then, now]).softmax(0)[0].mean(1)
            drawn[side] = torch.zeros_like(means[side]).scatter(1, order[:, :keep], both).bernoulli() > 0
        for _ in range(2):  # the current clips, the past ones
            for i in range(clips):
                walk(means["audio"][i].cpu(), drawn["audio"][i].cpu(), AUDIO // 2, CHUNK * FREQS)
                means["video"][i].masked_fill(drawn["video"][i], 1e-30).multinomial(VIDEO // 2)

    def ops() -> None:
        audio = selection.importance(video_query, audio_key, SCALE, TEMPERATURE)
        video = selection.importance(audio_query, video_key, SCALE, TEMPERATURE)
        top_audio, top_video = selection.leading(audio, AUDIO // 2), selection.leading(video, VIDEO // 2)
        now_audio = selection.pooled_query(audio_query, audio, top_audio)
        now_video = selection.pooled_query(video_query, video, top_video)
        of_audio = selection.correlation(audio_key, past_video, now_video, top_audio, SCALE)
        of_video = selection.correlation(video_key, past_audio, now_audio, top_video, SCALE)
        audio, video, of_audio, of_video = (torch.cat([x, x]) for x in (audio, video, of_audio, of_video))
        to: Any = {"seed": 7, "index": torch.cat([index, index + clips])}
        audio_pruned = selection.prune(of_audio, use=Use.PRUNE_AUDIO, **to)
        video_pruned = selection.prune(of_video, use=Use.PRUNE_VIDEO, **to)
        selection.select_audio(audio, audio_pruned, AUDIO // 2, freqs=FREQS, chunk=CHUNK, **to)
        selection.sample(video, video_pruned, VIDEO // 2, use=Use.VIDEO, **to)

    return {"naive": naive, **ours(ops, device)}


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
