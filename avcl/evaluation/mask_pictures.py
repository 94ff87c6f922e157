"""Pictures of some clips with the masks of what sounds, and what a model makes of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from avcl.errors import UserError
from avcl.evaluation.localization_scores import upsampled
from avcl.evaluation.masks import masks_of
from avcl.utils.atomic import replacing

CLIPS = 6
TRUTH, PREDICTED = "white", "#E69F00"  # of the palette of Okabe and Ito, which the colour-blind can tell apart

Maps = Iterable[tuple[int, Mapping[str, Tensor]]]


def draw(path: str, clips: Any, maps_of: Callable[[Sequence[int]], Maps], title: str, outline: float | None) -> None:
    """Write a PNG: a row for each of some clips, evenly spread; the first frame, then each of its maps beside it.

    ``maps_of(numbers)``: maps ``(T, h, w)`` by name of these clips · ``outline``: the value at which maps are outlined,
    in the frame too; None leaves that out. The true mask is outlined in white everywhere.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    step = max(1, len(clips) // CLIPS)
    found = list(maps_of(list(range(0, len(clips), step))[:CLIPS]))
    if not found:
        raise UserError("picture: no clip can be shown")
    names = list(found[0][1])
    figure = Figure(figsize=(1.7 * (1 + len(names)), 1.7 * len(found) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(textwrap.wrap(title, 30 * (1 + len(names)))), fontsize=9)
    axes = figure.subplots(len(found), 1 + len(names), squeeze=False)
    for row, (number, maps) in zip(axes, found, strict=True):
        frame, mask = clips[number]["frames"][0], masks_of(clips, [number]).mask[0, 0]
        height, width = mask.shape
        low, high = frame.min(), frame.max()
        row[0].imshow(((frame - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0).numpy())
        row[0].set_ylabel(f"clip {number}", fontsize=8)
        for axis, name in zip(row[1:], names, strict=True):
            heat = upsampled(maps[name][:1], height, width)[0]
            ends = (0, 1) if outline is not None else (heat.min().item(), heat.max().item())
            axis.imshow(heat.numpy(), cmap="cividis", vmin=ends[0], vmax=ends[1])
            if outline is not None:
                for one in (axis, row[0]):
                    one.contour(heat.numpy(), [outline], colors=PREDICTED, linewidths=1.2)
        for axis in row:
            if mask.any():
                axis.contour(mask.float().numpy(), [0.5], colors=TRUTH, linewidths=1.2)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, name in zip(axes[0], ["frame", *names], strict=True):
        axis.set_title(name.replace("_", " "), fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(Path(path)) as file:
        figure.savefig(file, format="png", dpi=72, metadata={"Software": None})
