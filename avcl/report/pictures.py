"""Draws clips as a method sees them: importance, what was kept, pruned, visible and reconstructed, and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from avcl.clip import Clip, Grid
from avcl.metrics.selection import HALF, audio_source, auc, video_source

HEAT = "viridis"  # readable without colour vision, and when printed in grey
TRUTH, PRUNED, EMPTY = "#ff5fd2", "#e69f00", "#d9d9d9"
KINDS = ("video", "audio")


@dataclass(frozen=True)
class Shown:
    """One whole clip, a batch of one, with the grid of its patches; ``truth`` has ``mask`` and ``interval``."""

    clip: Clip
    grid: Grid
    patch: int
    truth: Any = None

    def map(self, kind: str, values: Tensor) -> NDArray[np.float64]:
        """A value for each patch (L,) as an image of them: frames side by side, or mel over time."""
        grid, numbers = self.grid, values.detach().double().cpu().numpy()
        if kind == "video":
            return rearrange(numbers, "(t r c) -> r (t c)", t=grid.frames, r=grid.rows)
        return rearrange(numbers, "(t f) -> f t", f=grid.freqs)

    def image(self, kind: str, clip: Clip | None = None) -> NDArray[np.float64]:
        """Pixels of ``clip``, a part of this one or all of it: frames side by side, (H, T * W, 3), or log-mel (M, T).

        In 0..1 between the whole clip's lowest and highest percent; NaN where ``clip`` has no patch.
        """
        whole = getattr(self.clip, kind)[0].float().cpu()
        low, high = np.quantile(whole.numpy(), (0.01, 0.99))
        pixels = torch.full_like(whole, float("nan"))
        part = self.clip if clip is None else clip
        pixels[getattr(part, f"{kind}_at")[0].cpu()] = getattr(part, kind)[0].float().cpu()
        flat = np.clip((pixels.numpy() - low) / max(high - low, 1e-6), 0, 1)
        grid, patch = self.grid, self.patch
        if kind == "video":
            size = {"t": grid.frames, "r": grid.rows, "c": grid.cols, "p": patch, "q": patch}
            return rearrange(flat, "(t r c) (p q k) -> (r p) (t c q) k", **size)
        return rearrange(flat, "(t f) (p q) -> (f q) (t p)", t=grid.times, p=patch, q=patch)

    def source(self, kind: str) -> Tensor | None:
        """Whether each patch is one of the source, (1, L) bool, where the truth is known."""
        if self.truth is None:
            return None
        if kind == "video":
            share = video_source(self.truth.mask, self.patch)
        else:
            share = audio_source(self.truth.interval, self.grid, self.patch)
        return ((share > 0) & (share >= share.max().clamp(max=HALF)))[None]


@dataclass(frozen=True)
class Kept:
    """What became of a clip: by modality the fields of a ``Choice``, ``seen`` by the encoder, ``rebuilt`` from it."""

    shown: Shown
    choice: Mapping[str, Mapping[str, Tensor | None]]
    seen: Clip
    rebuilt: Clip | None


def selection_figure(clips: Sequence[Kept], title: str) -> Figure:
    """A row of pictures for the frames of each clip, and one for its spectrogram."""
    correlated = any(_differs(kept.choice[kind]["correlation"]) for kept in clips for kind in KINDS)
    rebuilt = any(kept.rebuilt is not None for kept in clips)
    heads = ["clip", "importance"]
    heads += ["correlation with the past"] * correlated + ["kept", "seen by the encoder"] + ["reconstructed"] * rebuilt
    figure, axes = _sheet(len(clips), len(heads), title, top=heads)
    for row, kept in enumerate(clips):
        for half, kind in enumerate(KINDS):
            panels = iter(axes[2 * row + half])
            shown, choice = kept.shown, kept.choice[kind]
            _picture(next(panels), shown, kind)
            _heat(next(panels), shown, kind, choice["importance"], _auc(shown, kind, choice["importance"]))
            if correlated:
                _heat(next(panels), shown, kind, choice["correlation"])
            _kept(next(panels), shown, kind, choice)
            _picture(next(panels), shown, kind, kept.seen)
            if rebuilt and kept.rebuilt is not None:
                _picture(next(panels), shown, kind, kept.rebuilt)
        axes[2 * row][0].set_ylabel(f"clip {row + 1}\nframes")
    _legend(figure, any(kept.shown.truth is not None for kept in clips), pruned=correlated, kept=True)
    return figure


def forgetting_figure(
    rows: Sequence[tuple[Shown, Sequence[Mapping[str, tuple[Tensor, float]]]]], tasks: Sequence[str], title: str
) -> Figure:
    """One clip of each task: importance after that task and after every later one, with its correlation to the first.

    ``rows``: a clip with importance (L,) and correlation by modality, one for each task from its own on.
    """
    heads = ["clip", *(f"after task {number + 1}\n{name}" for number, name in enumerate(tasks))]
    figure, axes = _sheet(len(rows), len(heads), title, top=heads)
    for row, (shown, maps) in enumerate(rows):
        for half, kind in enumerate(KINDS):
            line = axes[2 * row + half]
            _picture(line[0], shown, kind)
            first = len(heads) - len(maps)
            for place, (panel, found) in enumerate(zip(line[first:], maps, strict=True)):
                importance, correlation = found[kind]
                same = "" if np.isnan(correlation) else f"r = {correlation:.2f}"
                _heat(panel, shown, kind, importance, same if place else "just learned")
            for panel in line[1:first]:
                panel.set_axis_off()
        axes[2 * row][0].set_ylabel(f"a clip of\n{tasks[len(tasks) - len(maps)]}")
    _legend(figure, any(shown.truth is not None for shown, _ in rows), pruned=False, kept=False)
    note = "r: correlation of the map with the one right after the clip's own task; 1 is nothing forgotten"
    figure.text(0.995, 0.004, note, ha="right", va="bottom", fontsize=7.5, color="#444444")
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _sheet(clips: int, columns: int, title: str, top: Sequence[str]) -> tuple[Figure, NDArray[Any]]:
    figure = Figure(figsize=(2.1 * columns + 0.5, 2.05 * clips + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * clips, columns, squeeze=False, height_ratios=[1.25, 0.8] * clips)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    for panel, head in zip(axes[0], top, strict=True):
        panel.set_title(head, fontsize=9, pad=14 if head != "clip" else 14)
    for row in range(clips):
        axes[2 * row + 1][0].set_ylabel("log-mel")
    for panel in axes[:, 0]:
        panel.yaxis.label.set_size(8)
    axes[-1][0].set_xlabel("time", fontsize=8)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure, axes


def _picture(panel: Axes, shown: Shown, kind: str, clip: Clip | None = None) -> None:
    """Pixels, grey where there is no patch, with the truth's outline."""
    image = shown.image(kind, clip)
    panel.set_facecolor(EMPTY)
    if kind == "video":
        seen = ~np.isnan(image).any(2)
        panel.imshow(np.dstack([np.nan_to_num(image), seen]), aspect="auto", interpolation="nearest")
    else:
        panel.imshow(image, cmap="magma", vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
    _outline(panel, shown, kind, image.shape[1])


def _heat(panel: Axes, shown: Shown, kind: str, scores: Tensor | None, note: str = "") -> None:
    """A score of every patch, from 0 to the clip's highest, over the pixels in grey."""
    image = shown.image(kind)
    if scores is None:
        panel.set_axis_off()
        return
    height, width = image.shape[:2]
    grey = image.mean(2) if kind == "video" else image
    where: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "extent": (-0.5, width - 0.5, *_ends(kind, height))}
    heat = shown.map(kind, scores)
    panel.imshow(grey, cmap="gray", vmin=0, vmax=1, origin="upper" if kind == "video" else "lower", **where)
    panel.imshow(
        heat, cmap=HEAT, vmin=0, vmax=max(heat.max(), 1e-12), alpha=0.75,
        origin="upper" if kind == "video" else "lower", **where,
    )  # fmt: skip
    _outline(panel, shown, kind, width)
    if note:
        panel.text(1, 1.01, note, transform=panel.transAxes, fontsize=7, ha="right", va="bottom")


def _kept(panel: Axes, shown: Shown, kind: str, choice: Mapping[str, Tensor | None]) -> None:
    """The kept patches alone; those that were pruned are marked."""
    kept, pruned = choice["kept"], choice["pruned"]
    assert kept is not None
    rows = {key: value[None] for key, value in (("video", kept), ("audio", kept))}
    other = torch.arange(1)[None]
    part = shown.clip.take(rows["video"], other) if kind == "video" else shown.clip.take(other, rows["audio"])
    _picture(panel, shown, kind, part)
    image = shown.image(kind)
    if pruned is not None and pruned.any():
        marked = np.where(shown.map(kind, pruned) > 0, 1.0, np.nan)
        height, width = image.shape[:2]
        panel.imshow(
            marked, cmap=ListedColormap([PRUNED]), aspect="auto", interpolation="nearest",
            origin="upper" if kind == "video" else "lower",
            extent=(-0.5, width - 0.5, *_ends(kind, height)),
        )  # fmt: skip
    count = getattr(shown.grid, kind)
    panel.text(1, 1.01, f"{len(kept)} of {count} patches", transform=panel.transAxes, fontsize=7, ha="right", va="bottom")


def _ends(kind: str, height: int) -> tuple[float, float]:
    """Bottom and top of an image's extent: frames count rows from above, mel bands from below."""
    return (height - 0.5, -0.5) if kind == "video" else (-0.5, height - 0.5)


def _outline(panel: Axes, shown: Shown, kind: str, width: int) -> None:
    """The edge of what sounds, and edges between frames."""
    if kind == "video":
        step = width // shown.grid.frames
        for frame in range(1, shown.grid.frames):
            panel.axvline(frame * step - 0.5, color="white", linewidth=1.5)
    if shown.truth is None:
        return
    if kind == "video":
        mask = rearrange(shown.truth.mask.numpy().astype(float), "t h w -> h (t w)")
        if mask.any():
            panel.contour(mask, levels=[0.5], colors="white", linewidths=2.2)
            panel.contour(mask, levels=[0.5], colors=TRUTH, linewidths=1.2)
    else:
        for edge in shown.truth.interval:
            panel.axvline(edge - 0.5, color="white", linewidth=2.2)
            panel.axvline(edge - 0.5, color=TRUTH, linewidth=1.2)


def _auc(shown: Shown, kind: str, importance: Tensor | None) -> str:
    source = shown.source(kind)
    if source is None or importance is None or bool(source.all()):
        return ""
    freqs = shown.grid.freqs if kind == "audio" else 1
    in_time = importance.double().view(1, -1, freqs).sum(2)
    return f"AUC {float(auc(in_time, source.view(1, -1, freqs)[..., 0])):.2f}"


def _differs(values: Tensor | None) -> bool:
    return values is not None and bool((values != values.flatten()[0]).any())


def _legend(figure: Figure, truth: bool, pruned: bool, kept: bool) -> None:
    marks: list[Any] = []
    if truth:
        marks.append(Line2D([], [], color=TRUTH, label="truth: the object that sounds, and when"))
    if kept:
        marks.append(Patch(color=EMPTY, label="left out"))
    if pruned:
        marks.append(Patch(color=PRUNED, label="pruned: belongs to the past"))
    bar = figure.colorbar(
        __import__("matplotlib.cm", fromlist=["ScalarMappable"]).ScalarMappable(cmap=HEAT),
        ax=figure.axes, location="right", shrink=0.4, aspect=30, pad=0.01,
    )  # fmt: skip
    bar.set_ticks([0, 1], labels=["0", "clip's\nhighest"], fontsize=7)
    if marks:
        figure.legend(handles=marks, loc="outside lower left", ncols=len(marks), fontsize=8, frameon=False)
