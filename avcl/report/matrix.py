"""The task matrix as a heat map: what every task scores after every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image


def matrix_figure(
    matrices: Mapping[str, Sequence[Sequence[float]]], tasks: Sequence[str], after: Sequence[str], title: str
) -> Figure:
    """One heat map for each of ``matrices``, by its title: a row ``after`` every part that was trained on, a column
    for every task.

    A task right after it was learned has a frame; the tasks right of it had not begun.
    """
    count, done = len(tasks), len(next(iter(matrices.values())))
    top = max(float(np.max(matrix)) for matrix in matrices.values())
    width = len(matrices) * (max(0.55 * count, 2.4) + 1.3) + 0.6
    figure = Figure(figsize=(width, 0.45 * done + 1.9), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    for panel, (name, matrix) in zip(panels, matrices.items(), strict=True):
        image = panel.imshow(
            np.asarray(matrix, dtype=float), cmap="viridis", vmin=0, vmax=max(top, 1e-9), aspect="auto"
        )
        for row, column in np.ndindex(done, count):
            value, own = matrix[row][column], after[row] == tasks[column]
            color = "black" if value > 0.6 * top else "white"
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
            panel.text(column, row, f"{value:.0f}", weight="bold" if own else "normal", **style)
            if own:
                frame: dict[str, Any] = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
                panel.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, **frame))
        panel.set_xticks(range(count), tasks, rotation=30, ha="right", fontsize=8)
        panel.set_yticks(range(done), [f"after {part}" for part in after[:done]], fontsize=8)
        panel.set_title(name, fontsize=9)
    figure.colorbar(image, ax=figure.axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10, fontweight="bold")
    return figure


def pixels(figure: Figure) -> Image.Image:
    """The drawn figure, for those who take no vectors."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba())).convert("RGB")
