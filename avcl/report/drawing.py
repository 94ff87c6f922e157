"""How figures of runs look: colours, lines, names, chance, and the files they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avcl.errors import UserError
from avcl.report.comparison import measure_of
from avcl.report.runs import FoundRun, Stream
from avcl.report.tables import MEASURES
from avcl.utils.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#000000", "#8C6D31", "#999999")
"""Okabe and Ito's, which colour-blind people can tell apart, and three more."""
MARKERS = "osD^vPX*<>"
DASHES = ("-", "--", "-.", ":")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "avcl",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
}
CHANCE: dict[str, Any] = {"color": "#888888", "linestyle": (0, (2, 2)), "linewidth": 1.0, "zorder": 1}


def save(figure: Figure, path: Path) -> None:
    """Write PNG, SVG or PDF, whichever the name asks for; the same figure gives the same bytes."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"--out {path}: must end in {', '.join(SUFFIXES)}")
    dated: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with rc_context(STYLE), replacing(path) as file:
        figure.savefig(file, format=kind[1:], dpi=200, metadata=dated[kind])


def what(measure: str) -> str:
    """A measure in words, with its unit."""
    way, _, name = measure.partition("/")
    told = {"both": "both directions"}.get(way, f"{way}")
    return f"{MEASURES[name]}, {told}" + ("" if name == "median_rank" else ", %")


def last_of(run: FoundRun, measure: str, summary: str) -> float | None:
    """A summary after the last task."""
    values = measure_of(run.results, measure).get(summary)
    return values[-1] if values else None


def chance_line(axis: Axes, stream: Stream, measure: str) -> None:
    """Where chance is."""
    chance = measure_of(stream.runs[0].results, measure).get("chance")
    if chance is not None:
        axis.axhline(chance, **CHANCE)
        axis.annotate(
            f"chance {chance:.1f}", (1, chance), xycoords=("axes fraction", "data"), xytext=(-2, 2),
            textcoords="offset points", ha="right", size=8, color="#666666",
        )  # fmt: skip


def colour(place: int) -> str:
    """The colour of the method in this place."""
    return COLOURS[place % len(COLOURS)]


def dash(place: int) -> str:
    """Its line, another one where colours begin again."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


def handle(place: int, line: str = "") -> Line2D:
    """The line of a legend for the method in this place."""
    mark = "" if line == "--" else MARKERS[place % len(MARKERS)]
    style: dict[str, Any] = {"color": colour(place), "linestyle": line or dash(place), "marker": mark}
    return Line2D([], [], markersize=5, **style)


def name_points(axis: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Each point's name beside it, below where the name of a point above is in the way."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    told: list[tuple[float, float]] = []
    for y, x, name, colour in sorted(labels, reverse=True):
        near = any(abs(x - a) < 0.2 * (right - left) and abs(y - b) < 0.07 * (high - low) for a, b in told)
        told.append((x, y))
        down: dict[str, Any] = {"xytext": (6, -5), "va": "top"} if near else {"xytext": (6, 4), "va": "bottom"}
        axis.annotate(name, (x, y), textcoords="offset points", size=8, color=colour, **down)
