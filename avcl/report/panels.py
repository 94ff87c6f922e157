"""Draws one clip's frames or spectrogram into one pair of axes: pixels, a score of every patch, marked patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from torch import Tensor

from avcl.clip import Clip, Grid
from avcl.metrics.selection import Source, source_of

Kind = Literal["video", "audio"]
KINDS: tuple[Kind, Kind] = ("video", "audio")
HEAT = "viridis"  # told apart without colour vision, and in grey print
TRUTH, PRUNED, EMPTY = "#ff5fd2", "#e69f00", "#d9d9d9"


@dataclass(frozen=True)
class Shown:
    """One whole clip, a batch of one, and the grid of its patches; ``truth`` has its ``mask`` and ``interval``."""

    clip: Clip
    grid: Grid
    patch: int
    truth: Any = None

    def image(self, kind: Kind, part: Clip | None = None) -> NDArray[Any]:
        """Pixels of ``part`` of the clip, or of all: frames side by side (H, T * W, 3), or log-mel (mels, times).

        In 0..1 between the whole clip's lowest and highest percent; NaN where ``part`` has no patch.
        """
        whole = getattr(self.clip, kind)[0].float().cpu()
        low, high = np.quantile(whole.numpy(), (0.01, 0.99))
        part, pixels = part or self.clip, torch.full_like(whole, float("nan"))
        pixels[getattr(part, f"{kind}_at")[0].cpu()] = getattr(part, kind)[0].float().cpu()
        flat = np.clip((pixels.numpy() - low) / max(high - low, 1e-6), 0, 1)
        if kind == "video":
            size = {"t": self.grid.frames, "r": self.grid.rows, "p": self.patch, "q": self.patch}
            return rearrange(flat, "(t r c) (p q k) -> (r p) (t c q) k", **size)
        return rearrange(flat, "(t f) (p q) -> (f q) (t p)", f=self.grid.freqs, p=self.patch)

    def map(self, kind: Kind, values: Tensor) -> NDArray[Any]:
        """A value of every patch, (1, L), as an image of them: frames side by side, or mel over time."""
        numbers = values[0].detach().double().cpu().numpy()
        if kind == "video":
            return rearrange(numbers, "(t r c) -> r (t c)", t=self.grid.frames, r=self.grid.rows)
        return rearrange(numbers, "(t f) -> f t", f=self.grid.freqs)

    @property
    def source(self) -> Source | None:
        """Which patches are of the source, where the truth is known."""
        return None if self.truth is None else source_of([self.truth], self.grid, self.patch)


def picture(panel: Axes, shown: Shown, kind: Kind, part: Clip | None = None) -> None:
    """The pixels of ``part`` of a clip, or of all, grey where it has no patch."""
    image = shown.image(kind, part)
    panel.set_facecolor(EMPTY)
    if kind == "video":
        image = np.dstack([np.nan_to_num(image), ~np.isnan(image[..., 0])])
    _draw(panel, shown, kind, image, cmap="magma", vmin=0, vmax=1)
    _outline(panel, shown, kind)


def heat(panel: Axes, shown: Shown, kind: Kind, scores: Tensor | None, note: str = "") -> None:
    """A score of every patch, (1, L), from 0 to the clip's highest, over the pixels in grey; nothing without scores."""
    if scores is None:
        panel.set_axis_off()
        return
    image, values = shown.image(kind), shown.map(kind, scores)
    _draw(panel, shown, kind, image.mean(2) if kind == "video" else image, cmap="gray", vmin=0, vmax=1)
    _draw(panel, shown, kind, values, cmap=HEAT, vmin=0, vmax=max(values.max(), 1e-12), alpha=0.75)
    _outline(panel, shown, kind)
    write(panel, note)


def mark(panel: Axes, shown: Shown, kind: Kind, patches: Tensor | None) -> None:
    """Cover ``patches (1, L)`` bool with a colour."""
    if patches is not None:
        covered = np.where(shown.map(kind, patches) > 0, 1.0, np.nan)
        _draw(panel, shown, kind, covered, cmap=ListedColormap([PRUNED]))


def write(panel: Axes, note: str) -> None:
    """A few words above the right corner."""
    panel.text(1, 1.01, note, transform=panel.transAxes, fontsize=7, ha="right", va="bottom")


def _draw(panel: Axes, shown: Shown, kind: Kind, image: NDArray[Any], **style: Any) -> None:
    """An image of any resolution over the clip's pixels; frames have their first row above, bands below."""
    grid, patch = shown.grid, shown.patch
    if kind == "video":
        extent = (0, grid.frames * grid.cols * patch, grid.rows * patch, 0)
    else:
        extent = (0, grid.times * patch, 0, grid.freqs * patch)
    panel.imshow(
        image,
        extent=extent,
        origin="upper" if kind == "video" else "lower",
        aspect="auto",
        interpolation="nearest",
        **style,
    )


def _outline(panel: Axes, shown: Shown, kind: Kind) -> None:
    """Edges between frames, and around what sounds."""
    grid, patch = shown.grid, shown.patch
    if kind == "video":
        for frame in range(1, grid.frames):
            panel.axvline(frame * grid.cols * patch, color="white", linewidth=1.5)
    if shown.truth is None:
        return
    if kind == "video":
        mask = rearrange(shown.truth.mask.numpy().astype(float), "t h w -> h (t w)")
        rows, cols = (np.arange(n) + 0.5 for n in mask.shape)
        for color, width in (("white", 2.2), (TRUTH, 1.2)) if mask.any() else ():
            panel.contour(cols, rows, mask, levels=[0.5], colors=color, linewidths=width)
    else:
        for edge in shown.truth.interval:
            panel.axvline(edge, color="white", linewidth=2.2)
            panel.axvline(edge, color=TRUTH, linewidth=1.2)
