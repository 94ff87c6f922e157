"""How fast and how large the selection is, in ratios to what one would write in PyTorch.

python -m avcl.plugins.stella.ops.bench [--rounds 9] [--threads 2] [--device cpu] [--clips 12] [--step]

Times are medians over rounds in which every form has its turn, so that a busy machine slows all of them; peaks of
memory are those of fresh processes. ``--step`` also times a whole training step at the published size, on the CPU.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avcl.plugins import stella
from avcl.plugins.stella.ops import native, selection
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import KERNELS

Forms = dict[str, Callable[[], object]]

HEADS, AUDIO, VIDEO, WIDTH = 12, 512, 784, 64  # the published size
FREQS, CHUNK = 8, 4
SCALE, TEMPERATURE = WIDTH**-0.5, 0.4
OPS = torch.ops.avcl


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="Ratios of the selection's forms.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clips", type=int, default=12, help="of one process, as the authors trained")
    parser.add_argument("--step", action="store_true", help="also time a training step on the CPU (minutes)")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        show_peak(*options.peak)
        return
    device = torch.device(options.device)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    say(f"{machine()}, torch {torch.__version__}, {options.threads} threads{load}")
    for backend in native.backends():
        if backend.device.lower() == device.type:
            say(f"{backend.op:14} {'native' if backend.native else f'reference: {backend.reason}'}")
    say(f"kernels: {', '.join(usable(device)) or 'no choice'}; the last is what op stands for")
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        title = f"importance {str(dtype).removeprefix('torch.')}, B=8 H={HEADS} M={AUDIO} N={VIDEO} d={WIDTH}"
        compare(title, scores(dtype, device), device, options.rounds)
        for form in ("naive", "heads in turn", "op"):
            say(f"    {form:24} {peak(form, str(dtype).removeprefix('torch.'), options, device)}")
    for title, forms in draws(device).items():
        compare(title, forms, device, options.rounds)
    title = f"whole selection of a step, {options.clips} clips and as many past ones"
    compare(title, whole(options.clips, device), device, max(3, options.rounds // 3))
    if options.step:
        say(step(options.threads))


def machine() -> str:
    """The processor, by its own name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def compare(title: str, forms: Forms, device: torch.device, rounds: int) -> None:
    """Write the median time of each form and its ratio to the last one."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            wait(device)
            start = time.perf_counter()
            form()
            wait(device)
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    say(f"\n{title}")
    ours = statistics.median([*times.values()][-1])
    for name, taken in times.items():
        median = statistics.median(taken)
        say(f"    {name:24} {median * 1e3:9.3f} ms   {median / ours:6.1f} x")


# ---- scores --------------------------------------------------------------------------------------------------


def scores(dtype: torch.dtype, device: torch.device, clips: int = 8) -> Forms:
    """Importance of the video patches."""
    query, key = (torch.randn(clips, n, HEADS, WIDTH, device=device).to(dtype).transpose(1, 2) for n in (AUDIO, VIDEO))
    return {
        "naive": lambda: naive_importance(query, key),
        "clips and heads in turn": lambda: one_by_one(query, key),
        "heads in turn": lambda: KERNELS["importance"](query, key, SCALE, TEMPERATURE),
        **by_kernels("op", lambda: OPS.importance(query, key, SCALE, TEMPERATURE), device),
    }


def usable(device: torch.device) -> list[str]:
    """The instruction sets that there are kernels for, the best last."""
    if device.type != "cpu" or not all(backend.native for backend in native.backends() if backend.device == "CPU"):
        return []
    names = [name for name in native.INSTRUCTIONS if native.instructions(name)]
    native.instructions("")
    return names


def by_kernels(name: str, form: Callable[[], object], device: torch.device) -> Forms:
    """A form of ours by the kernels of each instruction set that is not the best, and as it is."""

    def using(instructions: str) -> Callable[[], object]:
        def call() -> None:
            native.instructions(instructions)
            form()
            native.instructions("")

        return call

    return {f"{name}, {other} kernels": using(other) for other in usable(device)[:-1]} | {name: form}


def naive_importance(query: Tensor, key: Tensor) -> Tensor:
    """With the whole map."""
    return (query @ key.mT * (SCALE / TEMPERATURE)).softmax(-1).mean((1, 2))


def one_by_one(query: Tensor, key: Tensor) -> Tensor:
    """With one map of one head of one clip at a time."""
    total = torch.zeros(len(key), key.shape[2], device=key.device)
    for clip in range(len(key)):
        for q, k in zip(query[clip], key[clip], strict=True):
            total[clip] += (q @ k.mT).mul_(SCALE / TEMPERATURE).softmax(-1).mean(0)
    return total / key.shape[1]


def peak(form: str, dtype: str, options: argparse.Namespace, device: torch.device) -> str:
    """Extra memory at its highest, in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--threads", str(options.threads), "--device", str(device)]
    done = subprocess.run([*command, "--peak", form, dtype], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def show_peak(form: str, dtype: str) -> None:
    """What ``peak`` runs, on Linux: the resident memory's high-water mark, set back before the call."""
    device, process = torch.device("cpu"), Path("/proc/self")

    def resident(line: str) -> int:
        return int((process / "status").read_text().partition(f"{line}:")[2].split()[0])

    scores(getattr(torch, dtype), device, clips=1)[form]()  # loads what is loaded on first use
    call = scores(getattr(torch, dtype), device)[form]
    (process / "clear_refs").write_text("5")
    before = resident("VmRSS")
    call()
    say(f"peak +{(resident('VmHWM') - before) / 1024:.1f} MB")


# ---- draws ---------------------------------------------------------------------------------------------------


def draws(device: torch.device, clips: int = 48) -> dict[str, Forms]:
    """Every draw of a step, at the published batch size."""
    index = torch.arange(clips, device=device)
    audio, video = (torch.rand(clips, n, device=device) for n in (AUDIO, VIDEO))
    audio_pruned, video_pruned = audio < 0.25, video < 0.25
    length, keep = CHUNK * FREQS, AUDIO // 2
    rows = torch.rand(clips, VIDEO, 768, device=device)
    top = selection.leading(video, VIDEO // 2)
    flat = (top + VIDEO * index[:, None]).flatten()
    return {
        f"select_chunks, B={clips}": {
            "a walk for each clip": lambda: [walk(audio[i], audio_pruned[i], keep, length) for i in range(clips)],
            "vectorised PyTorch": lambda: KERNELS["select_chunks"](
                audio, audio_pruned, keep, length, "neighbours", 7, index
            ),
            "op": lambda: OPS.select_chunks(audio, audio_pruned, keep, length, "neighbours", 7, index),
        },
        f"sample, B={clips} N={VIDEO}": {
            "vectorised PyTorch": lambda: KERNELS["sample"](video, video_pruned, VIDEO // 2, 7, Use.VIDEO, index),
            "torch.multinomial": lambda: video.masked_fill(video_pruned, 1e-30).multinomial(VIDEO // 2),
            "op": lambda: OPS.sample(video, video_pruned, VIDEO // 2, 7, Use.VIDEO, index),
        },
        f"prune, B={clips} N={VIDEO}": {
            "vectorised PyTorch": lambda: KERNELS["prune"](video, 7, Use.PRUNE_VIDEO, index),
            "torch.bernoulli": lambda: torch.bernoulli(video),
            "op": lambda: OPS.prune(video, 7, Use.PRUNE_VIDEO, index),
        },
        f"gathering half of the patches, B={clips} N={VIDEO} of 768: no op of ours": {
            "torch.gather": lambda: rows.gather(1, top[..., None].expand(-1, -1, 768)),
            "index_select of all rows": lambda: rows.flatten(0, 1).index_select(0, flat).view(clips, -1, 768),
            "copy of as much": lambda: rows[:, : VIDEO // 2].clone(),
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


# ---- a step --------------------------------------------------------------------------------------------------


def whole(clips: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """All that a step does to select, in both modalities, with full maps and loops, and by the ops."""
    sides = {}
    for side, count in (("audio", AUDIO), ("video", VIDEO)):
        tokens = (torch.randn(clips, count, HEADS, WIDTH, device=device).transpose(1, 2) for _ in range(2))
        past = torch.randn(clips, HEADS, WIDTH, device=device)
        sides[side] = (*tokens, past)
    (audio_query, audio_key, past_audio), (video_query, video_key, past_video) = sides["audio"], sides["video"]
    index = torch.arange(clips, device=device)

    def naive() -> None:
        # as the authors: both maps are sorted by importance along both axes, then cut to their best corner
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

    return {"full maps and loops": naive, **by_kernels("ops", ops, device)}


def step(threads: int, clips: int = 2) -> str:
    """The share of a training step, with replay, that is spent on selecting."""
    from avcl.backbones.cavmae import CavMae
    from avcl.clip import Clip
    from avcl.memory import Memory

    learner = Learner(backbone=CavMae(), strategy=stella.Stella(memory=Memory(capacity=8)), batch_size=clips)
    spent = [0.0]

    def timed(function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - start

        return call

    for name in ("importance", "leading", "pooled_query", "correlation", "prune", "select_audio", "sample"):
        setattr(stella, name, timed(getattr(stella, name)))
    learner.is_training, shares = True, []
    for _ in range(4):
        learner.current = Clip.cut(torch.randn(clips, 4, 3, 224, 224), torch.randn(clips, 1, 1024, 128), 16)
        spent[0], start = 0.0, time.perf_counter()
        learner.training_iteration()
        shares.append((spent[0], time.perf_counter() - start))
    ours, all_of_it = (statistics.median(x) for x in zip(*shares[1:], strict=True))  # the first has no past
    return (
        f"\ntraining step, {clips} clips and as many past ones, {threads} threads\n"
        f"    selection {ours * 1e3:.1f} ms of {all_of_it * 1e3:.0f} ms: {100 * ours / all_of_it:.2f} %"
    )


def wait(device: torch.device) -> None:
    """Until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
