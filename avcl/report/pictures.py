"""Figures of what a method selects of clips: importance, kept, pruned, visible, reconstructed; and how it drifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from avcl.clip import Clip
from avcl.metrics.selection import auc, in_time
from avcl.report.panels import EMPTY, HEAT, KINDS, PRUNED, TRUTH, Kind, Shown, heat, mark, picture, write
from avcl.selection import Choice, Selection
from avcl.utils.atomic import replacing

Maps = Mapping[str, tuple[Tensor, float]]


@dataclass(frozen=True)
class Kept:
    """What became of one clip: what was selected of it, ``seen`` by the encoder, and ``rebuilt`` by the decoder."""

    shown: Shown
    selection: Selection
    seen: Clip
    rebuilt: Clip | None


def selection_figure(clips: Sequence[Kept], title: str) -> Figure:
    """Of each clip a row of pictures for its frames, and one for its spectrogram."""
    choices = [choice for kept in clips for choice in kept.selection]
    correlated = any(choice.correlation is not None and choice.correlation.any() for choice in choices)
    pruned = any(choice.pruned is not None and choice.pruned.any() for choice in choices)
    rebuilt = any(kept.rebuilt is not None for kept in clips)
    heads = ["clip", "importance"] + ["correlation with the past"] * correlated
    heads += ["kept", "seen by the encoder"] + ["reconstructed from it"] * rebuilt
    note = "heat is from 0 to the highest of a clip; of what is kept the encoder sees a random part"
    figure, axes = _sheet([kept.shown for kept in clips], heads, title, note)
    for row, kept in enumerate(clips):
        for half, kind in enumerate(KINDS):
            shown, choice = kept.shown, getattr(kept.selection, kind)
            panels = iter(axes[2 * row + half])
            picture(next(panels), shown, kind)
            heat(next(panels), shown, kind, choice.importance, _auc(shown, kind, choice))
            if correlated:
                heat(next(panels), shown, kind, choice.correlation)
            panel = next(panels)
            picture(panel, shown, kind, _part(shown, kind, choice))
            mark(panel, shown, kind, choice.pruned)
            write(panel, f"{choice.kept.shape[1]} of {choice.importance.shape[1]} patches")
            picture(next(panels), shown, kind, kept.seen)
            if kept.rebuilt is not None:
                picture(next(panels), shown, kind, kept.rebuilt)
        axes[2 * row][0].set_ylabel(f"clip {row + 1}\nframes", fontsize=8)
    marks: list[Any] = [Patch(color=EMPTY, label="not kept, or not seen")]
    marks += [Patch(color=PRUNED, label="pruned: belongs to the past")] * pruned
    _legend(figure, [kept.shown for kept in clips], marks)
    return figure


def forgetting_figure(rows: Sequence[tuple[Shown, Sequence[Maps]]], tasks: Sequence[str], title: str) -> Figure:
    """One clip of each task: its importance after that task and after every later one.

    ``rows``: a clip and, for each task from its own on, by modality importance (1, L) and the correlation with the
    first of them.
    """
    heads = ["clip", *(f"after task {number + 1}\n{name}" for number, name in enumerate(tasks))]
    note = "heat is importance; r: its correlation with what it was right after the clip's own task"
    figure, axes = _sheet([shown for shown, _ in rows], heads, title, note)
    for row, (shown, maps) in enumerate(rows):
        first = len(heads) - len(maps)
        for half, kind in enumerate(KINDS):
            line = axes[2 * row + half]
            picture(line[0], shown, kind)
            for panel in line[1:first]:
                panel.set_axis_off()
            for place, (panel, found) in enumerate(zip(line[first:], maps, strict=True)):
                importance, correlation = found[kind]
                same = "" if np.isnan(correlation) else f"r = {correlation:.2f}"
                heat(panel, shown, kind, importance, same if place else "just learned")
        axes[2 * row][0].set_ylabel(f"a clip of\n{tasks[first - 1]}", fontsize=8)
    _legend(figure, [shown for shown, _ in rows], [])
    return figure


def write_figure(figure: Figure, path: Path) -> Image.Image:
    """Write a PNG, in a folder that is made; returns its pixels, so that it is drawn but once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    with Image.open(path) as written:
        return written.convert("RGB")


def _sheet(clips: Sequence[Shown], heads: Sequence[str], title: str, note: str) -> tuple[Figure, NDArray[Any]]:
    """Two rows of axes for each clip, frames over spectrogram, under a head for each column."""
    rows, grid = len(clips), clips[0].grid
    column = min(3.6, max(2.1, 1.05 * grid.frames * grid.cols / grid.rows))  # inches: frames keep their shape
    width, height = column * len(heads) + 1.1, 2.0 * rows + 1.25
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    edges = {"left": 0.45 / width, "right": 1 - 0.75 / width, "top": 1 - 0.9 / height, "bottom": 0.4 / height}
    spaces = {"height_ratios": [1.25, 0.8] * rows, "wspace": 0.05, "hspace": 0.25, **edges}
    axes = figure.subplots(2 * rows, len(heads), squeeze=False, gridspec_kw=spaces)
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    for panel, head in zip(axes[0], heads, strict=True):
        panel.set_title(head, fontsize=9, pad=13)
    for row in range(rows):
        axes[2 * row + 1][0].set_ylabel("log-mel\nover time", fontsize=8)
    figure.suptitle(title, fontsize=11, fontweight="bold", y=1 - 0.08 / height, va="top")
    figure.text(0.5, 1 - 0.28 / height, note, fontsize=8, color="#444444", ha="center", va="top")
    return figure, axes


def _part(shown: Shown, kind: Kind, choice: Choice) -> Clip:
    """The clip with the kept patches of one modality, and whatever of the other."""
    kept, other = choice.kept.to(shown.clip.video.device), choice.kept[:, :0].to(shown.clip.video.device)
    return shown.clip.take(kept, other) if kind == "video" else shown.clip.take(other, kept)


def _auc(shown: Shown, kind: Kind, choice: Choice) -> str:
    source = shown.source
    if source is None:
        return ""
    freqs = shown.grid.freqs if kind == "audio" else 1
    value = float(auc(in_time(choice.importance.cpu(), freqs), source.patches[kind]))
    return "" if np.isnan(value) else f"AUC {value:.2f}"


def _legend(figure: Figure, clips: Sequence[Shown], marks: Sequence[Any]) -> None:
    """What outline, colours and heat mean."""
    truth = Line2D([], [], color=TRUTH, label="truth: the object that sounds, and when")
    handles = [truth] * any(shown.truth is not None for shown in clips) + [*marks]
    width, height = figure.get_size_inches()
    if handles:
        place = (0.35 / width, 0.02 / height)
        figure.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=3, fontsize=8, frameon=False)
    bar = figure.colorbar(ScalarMappable(cmap=HEAT), cax=figure.add_axes((1 - 0.65 / width, 0.3, 0.1 / width, 0.4)))
    bar.set_ticks([0, 1], labels=["0", "clip's\nhighest"], fontsize=7)
