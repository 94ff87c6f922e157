"""The task matrix as a heat map: what every task scores after every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def matrix_figure(matrices: Mapping[str, Sequence[Sequence[float]]], tasks: Sequence[str], title: str) -> Figure:
    """One heat map for each of ``matrices``, by its title: a row after every task, a column for every task.

    The cell of a task right after it was learned has a frame; what is not learned yet is above the frames' diagonal.
    """
    first = next(iter(matrices.values()))
    done, count = len(first), len(first[0])
    side = max(0.55 * count, 2.4)
    figure = Figure(figsize=(len(matrices) * (side + 1.3) + 0.6, 0.45 * done + 1.9), layout="constrained")
    FigureCanvasAgg(figure)
    top = max(float(np.max(matrix)) for matrix in matrices.values())
    for axes, (name, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        image = axes.imshow(np.asarray(matrix, dtype=float), cmap="viridis", vmin=0, vmax=max(top, 1e-9), aspect="auto")
        for row in range(done):
            for column in range(count):
                value = matrix[row][column]
                color = "black" if value > 0.6 * top else "white"
                weight = "bold" if row == column else "normal"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, weight=weight, fontsize=8)
            if row < count and done <= count:
                frame: dict[str, Any] = {"fill": False, "edgecolor": "white", "linewidth": 1.5}
                axes.add_patch(Rectangle((row - 0.47, row - 0.47), 0.94, 0.94, **frame))
        names = [tasks[i] if i < len(tasks) else f"task {i + 1}" for i in range(count)]
        axes.set_xticks(range(count), names, rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(done), [f"after {name}" for name in names[:done]] if done <= count else None, fontsize=8)
        axes.set_title(name, fontsize=9)
    figure.colorbar(image, ax=figure.axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10, fontweight="bold")
    return figure
