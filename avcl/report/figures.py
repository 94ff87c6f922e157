"""Figures of finished runs: task matrices, curves of average and forgetting, a score against a setting."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from avcl.errors import UserError, nearest
from avcl.report.budget import steps_of
from avcl.report.comparison import WAYS, measure_of
from avcl.report.drawing import (
    MARKERS,
    STYLE,
    chance_line,
    colour,
    dash,
    handle,
    last_of,
    name_points,
    what,
)
from avcl.report.runs import MEASURED, FoundRun, Stream, differing, said, value_of
from avcl.report.tables import MEASURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("matrix", "curves", "setting")
BAND = "mean; band: ± standard deviation over seeds"


def draw(stream: Stream, kind: str, measure: str = "both/R@mean", against: str = "") -> Figure:
    """One of ``KINDS`` of a stream's runs; UserError for an unknown kind, measure or setting."""
    known = {f"{way}/{name}" for way in WAYS for name in MEASURES}
    if measure not in known:
        raise UserError(f"--measure {measure}: unknown{nearest(measure, known)}")
    if not any(measure_of(run.results, measure) for run in stream.runs):
        raise UserError(f"--measure {measure}: in none of these runs")
    with rc_context(STYLE):
        if kind == "matrix":
            return matrices(stream, measure)
        if kind == "curves":
            return curves(stream, measure)
        return setting(stream, measure, against)


def matrices(stream: Stream, measure: str) -> Figure:
    """A heat map for each method: the score of every task after every task, mean over seeds."""
    tables = {m: mean_matrix(runs, measure) for m, runs in stream.methods.items()}
    tasks, chance = stream.runs[0].tasks, measure_of(stream.runs[0].results, measure).get("chance")
    columns = min(len(tables), 3)
    rows = -(-len(tables) // columns)
    size = max(2.6, 0.55 * len(tasks) + 1.0)
    tallest = max(len(table) for table in tables.values())
    figure = Figure(figsize=(columns * size + 1.2, rows * max(1.5, 0.5 * tallest + 1.1)), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    top = max(float(np.max(table)) for table in tables.values())
    low = min(float(np.min(table)) for table in tables.values()) if measure.endswith("median_rank") else 0.0
    for axis, (method, table) in zip(axes, tables.items(), strict=False):
        after = measure_of(stream.methods[method][0].results, measure).get("after", tasks)
        axis.imshow(table, cmap="cividis", vmin=low, vmax=top, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            ink = "white" if value < (low + top) / 2 else "black"
            weight = "bold" if row == column and len(table) > 1 else "normal"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, size=8, weight=weight)
        axis.set_title(method, loc="left", weight="bold")
        axis.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
        axis.set_yticks(range(len(table)), after[: len(table)])
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    for axis in axes[len(tables) :]:
        axis.remove()
    figure.supxlabel("evaluated on", size=9)
    figure.supylabel("after training on", size=9)
    said = "" if chance is None else f"\n(chance {chance:.1f})"
    scale = ScalarMappable(Normalize(low, top), cmap="cividis")
    bar = figure.colorbar(scale, ax=axes[: len(tables)], shrink=0.8, pad=0.02)
    bar.set_label(f"{what(measure)}{said}")
    bar.outline.set_visible(False)
    return figure


def curves(stream: Stream, measure: str) -> Figure:
    """Average and forgetting after every task; also over steps where runs were evaluated within tasks."""
    steps = any("anytime" in measure_of(run.results, measure) for run in stream.runs)
    panels = ["average", "forgetting", *(["anytime"] if steps else [])]
    figure = Figure(figsize=(4.1 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    tasks = stream.runs[0].tasks
    for axis, panel in zip(axes, panels, strict=True):
        for place, runs in enumerate(stream.methods.values()):
            style: dict[str, Any] = {"color": colour(place), "linestyle": dash(place)}
            x, lines = _lines(runs, measure, panel, len(tasks))
            if lines:
                _band(axis, x, lines, style, MARKERS[place % len(MARKERS)] if panel != "anytime" else "")
        if panel == "anytime":
            axis.set_xlabel("optimizer steps")
            axis.set_title("average over the tasks begun so far", loc="left")
            _boundaries(axis, stream)
        else:
            axis.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
            axis.set_xlabel("after task")
            axis.set_title(f"{panel}, {what(measure) if panel == 'average' else 'points'}", loc="left")
            axis.set_xlim(-0.2, len(tasks) - 0.8)
        if panel != "forgetting":
            chance_line(axis, stream, measure)
    _legend(figure, stream)
    return figure


def setting(stream: Stream, measure: str, key: str) -> Figure:
    """Average and forgetting after the last task against the values of one setting, a line for each method.

    Methods without this setting are level lines.
    """
    key = _setting(stream, key)
    groups: dict[str, dict[Any, list[FoundRun]]] = {}
    for runs in stream.methods.values():
        others = [r for r in stream.runs if r.method == runs[0].method]
        more = [k for k in differing([r.settings for r in others]) if k != key and not _follows(k, key)]
        told = [f"{k.removeprefix('strategy.')}={runs[0].settings.get(k, '-')}" for k in more]
        groups.setdefault(" ".join([runs[0].method, *told]), {}).setdefault(_value(runs[0], key), []).extend(runs)
    values = list(dict.fromkeys(value for group in groups.values() for value in group if value is not None))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    values = sorted(values) if numbers else values
    places = {value: value if numbers else place for place, value in enumerate(values)}
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, summary in zip(axes, ("average", "forgetting"), strict=True):
        for place, group in enumerate(groups.values()):
            style: dict[str, Any] = {"color": colour(place)}
            found = {
                v: [x for r in runs if (x := last_of(r, measure, summary)) is not None] for v, runs in group.items()
            }
            level = found.pop(None, [])
            if level:
                axis.axhline(statistics.fmean(level), linestyle="--", linewidth=1.4, **style)
                if len(level) > 1:
                    mean, spread = statistics.fmean(level), statistics.stdev(level)
                    axis.axhspan(mean - spread, mean + spread, color=style["color"], alpha=0.12, linewidth=0)
            drawn = [value for value in values if found.get(value)]
            if drawn:
                means = [statistics.fmean(found[value]) for value in drawn]
                style |= {"yerr": [statistics.stdev(found[v]) if len(found[v]) > 1 else 0.0 for v in drawn]}
                style |= {"marker": MARKERS[place % len(MARKERS)], "markersize": 5, "capsize": 3, "linewidth": 1.6}
                axis.errorbar([places[value] for value in drawn], means, **style)
        axis.set_title(f"{summary}, {what(measure) if summary == 'average' else 'points'}", loc="left")
        axis.set_xlabel(key.removeprefix("strategy."))
        if numbers and len(values) > 2 and min(values) > 0 and max(values) / min(values) >= 8:
            axis.set_xscale("log")
            axis.minorticks_off()
        axis.set_xticks(list(places.values()), [f"{v:,}" if isinstance(v, int | float) else str(v) for v in values])
    chance_line(axes[0], stream, measure)
    handles = [handle(place, "--" if set(group) == {None} else "-") for place, group in enumerate(groups.values())]
    labels = [f"{name} (without it)" if set(group) == {None} else name for name, group in groups.items()]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    figure.suptitle("mean ± standard deviation over seeds", size=8, color="#666666", x=0.995, ha="right")
    return figure


def mean_matrix(runs: Sequence[FoundRun], measure: str) -> np.ndarray:
    """The task matrix, mean over runs, (evaluations, tasks)."""
    return np.mean([measure_of(run.results, measure)["matrix"] for run in runs], axis=0)


def _lines(runs: Sequence[FoundRun], measure: str, panel: str, tasks: int) -> tuple[list[float], list[list[float]]]:
    """Places and a curve for each run; joint training is a point behind the last task."""
    found = [measure_of(run.results, measure) for run in runs]
    if panel == "anytime":
        kept = [one["anytime"] for one in found if "anytime" in one]
        return (kept[0]["steps"], [one["average"] for one in kept]) if kept else ([], [])
    curves = [[value for value in one.get(panel) or [] if value is not None] for one in found]
    if not curves or not all(curves):
        return [], []
    return list(range(tasks - len(curves[0]), tasks)), curves


def _band(
    axis: Axes, x: Sequence[float], lines: Sequence[Sequence[float]], style: Mapping[str, Any], mark: str
) -> None:
    table = np.asarray(lines)
    mean = table.mean(0)
    axis.plot(x, mean, marker=mark or None, markersize=5, linewidth=1.6, **style)
    if len(table) > 1:
        spread = table.std(0, ddof=1)
        axis.fill_between(x, mean - spread, mean + spread, color=style["color"], alpha=0.13, linewidth=0)


def _boundaries(axis: Axes, stream: Stream) -> None:
    """Where tasks begin, of runs that had them one after the other."""
    run = next((run for run in stream.runs if not run.manifest.get("joint")), None)
    if run is not None:
        for number in range(1, len(run.manifest["clips"])):
            axis.axvline(steps_of({**run.manifest, "clips": run.manifest["clips"][:number]}), color="#bbbbbb", lw=0.8)


def _legend(figure: Figure, stream: Stream) -> None:
    handles = [handle(place) for place in range(len(stream.methods))]
    figure.legend(handles, list(stream.methods), loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    if max(map(len, stream.methods.values())) > 1:
        figure.suptitle(BAND, size=8, color="#666666", x=0.995, ha="right")


def _setting(stream: Stream, key: str) -> str:
    """The full key of a setting that varies over the runs; UserError where it does not."""
    keys = [*differing([run.settings for run in stream.runs]), *MEASURED]
    having = {k: [v for run in stream.runs if (v := value_of(run, k)) is not None] for k in keys}
    varied = [k for k, values in having.items() if k != "strategy.name" and len({json.dumps(v) for v in values}) > 1]
    for full in (key, f"strategy.{key}"):
        if full in varied:
            return full
    if not key:
        raise UserError(f"--against: required by --kind setting; what varies here: {', '.join(varied) or 'nothing'}")
    raise UserError(f"--against {key}: does not vary over these runs{nearest(key, varied)}")


def _value(run: FoundRun, key: str) -> Any:
    """Of a setting what a place on an axis can be."""
    value = value_of(run, key)
    return said(value) if isinstance(value, list | dict) else value


def _follows(key: str, varied: str) -> bool:
    """Whether a setting may differ because another one was varied: the budget that made it so."""
    return (varied == "bytes" and key.startswith("strategy.memory.")) or (varied, key) == ("passes", "learner.epochs")


def tradeoff(stream: Stream, measure: str = "both/R@mean") -> Figure:
    """Average against forgetting after the last task, a point with deviations for each method: top left is best."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axis = figure.subplots()
        labels = []
        for place, (method, runs) in enumerate(stream.methods.items()):
            pairs = [(last_of(run, measure, "forgetting"), last_of(run, measure, "average")) for run in runs]
            known = [(f, a) for f, a in pairs if f is not None and a is not None]
            if known:
                x, y = (statistics.fmean(values) for values in zip(*known, strict=True))
                dx, dy = ((statistics.stdev(v) if len(v) > 1 else 0.0) for v in zip(*known, strict=True))
                style: dict[str, Any] = {"color": colour(place), "marker": MARKERS[place % len(MARKERS)]}
                axis.errorbar(x, y, xerr=dx, yerr=dy, markersize=7, capsize=2, linewidth=1.2, linestyle="", **style)
                labels.append((y, x, method, style["color"]))
        axis.margins(0.14)
        name_points(axis, labels)
        axis.set_xlabel("forgetting, points (less is better)")
        axis.set_ylabel("average, % (more is better)")
        axis.set_title(what(measure).removesuffix(", %"), loc="left")
        return figure
