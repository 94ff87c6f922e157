"""One HTML page of many runs that needs nothing beside it: headline, tables, figures, pictures, settings, versions."""

from __future__ import annotations

import base64
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from avcl.report.documents import about, compared
from avcl.report.drawing import STYLE
from avcl.report.figures import curves, matrices, tradeoff
from avcl.report.headline import headline, lost_sheet
from avcl.report.runs import FoundRun, Stream, differing, said
from avcl.report.sheet import Cell, Sheet

MEASURE = "both/R@mean"
PICTURE = re.compile(r"(?P<what>.*?)_?after_(?P<number>\d+)_(?P<task>.+)")
KINDS = ("video", "audio")
SELECTION = {"auc": "AUC", "recall": "recall", "source_kept": "source in kept", "source_all": "source in all"}


def page(streams: Sequence[Stream], title: str, against: str = "") -> str:
    """The page; the same runs give the same text."""
    environment = Environment(
        loader=PackageLoader("avcl.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("page.html")
    return template.render(title=title, streams=[_content(stream, against) for stream in streams])


def _content(stream: Stream, against: str) -> dict[str, Any]:
    """What the template shows of one stream."""
    comparison = compared(stream, against)
    (short_title, short), *tables = comparison.sheets()
    selected = selection_sheet(stream)
    return {
        "name": stream.name,
        "about": about(stream),
        "headline": [*headline(stream, comparison), *_selected(stream)],
        "short": (short_title, short),
        "tradeoff": figure_uri(tradeoff(stream, MEASURE)),
        "lost": lost_sheet(stream),
        "curves": figure_uri(curves(stream, MEASURE)),
        "matrices": figure_uri(matrices(stream, MEASURE)),
        "tables": tables,
        "selection": selected,
        "pictures": list(_pictures(stream)),
        "evaluations": evaluation_sheets(stream),
        "settings": settings_sheet(stream),
        "shared": _shared(stream),
        "runs": [_run(run, method) for method, runs in stream.methods.items() for run in runs],
        "versions": _versions(stream),
    }


def figure_uri(figure: Figure) -> str:
    """A figure as SVG in a ``data:`` address; letters are drawn, so that every machine shows the same."""
    text = io.BytesIO()
    with rc_context({**STYLE, "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _data("image/svg+xml", text.getvalue())


def settings_sheet(stream: Stream) -> Sheet:
    """Settings that are not the same for all methods, a row each."""
    firsts = {method: runs[0].settings for method, runs in stream.methods.items()}
    rows = []
    for key in differing(list(firsts.values())):
        rows.append((key, [Cell(text=said(settings.get(key, "-"))) for settings in firsts.values()]))
    return Sheet("setting", list(firsts), {"": rows})


def selection_sheet(stream: Stream) -> Sheet | None:
    """How well each method finds the source, percent, where the runs measured it; None where none did."""
    head = [f"{kind}: {name}" for kind in KINDS for name in SELECTION.values()]
    rows = []
    for method, runs in stream.methods.items():
        found = [[_selection(run, f"{kind}/{name}") for run in runs] for kind in KINDS for name in SELECTION]
        cells = [_mean_cell([100 * value for value in values if value is not None]) for values in found]
        if any(cell.mean is not None for cell in cells):
            rows.append((method, cells))
    return Sheet("method", head, {"": rows}) if rows else None


def evaluation_sheets(stream: Stream) -> list[tuple[str, Sheet]]:
    """A table for each task of ``avcl eval`` that any of the runs has, beside chance."""
    found = {run.folder: run.file("evaluations.json") or {} for run in stream.runs}
    tasks = dict.fromkeys(task for one in found.values() for task in one)
    sheets = []
    for task in tasks:
        head = dict.fromkeys(name for one in found.values() for name in one.get(task, {}).get("scores", {}))
        rows = []
        for method, runs in stream.methods.items():
            scores = [found[run.folder][task]["scores"] for run in runs if task in found[run.folder]]
            if scores:
                rows.append((method, [_mean_cell(_numbers(one.get(name) for one in scores)) for name in head]))
        chances = [one[task].get("chance", {}) for one in found.values() if task in one]
        expected = [_mean_cell(_numbers(one.get(name) for one in chances)) for name in head]
        rows.append(("chance", [cell._replace(deviation=None) for cell in expected]))
        sheets.append((task, Sheet("method", list(head), {"": rows})))
    return sheets


def _selected(stream: Stream) -> Iterator[str]:
    for method, runs in stream.methods.items():
        told = []
        for kind in KINDS:
            kept, every = (
                _numbers(_selection(run, f"{kind}/source_{which}") for run in runs) for which in ("kept", "all")
            )
            if kept and every:
                kept_share, share = 100 * statistics.fmean(kept), 100 * statistics.fmean(every)
                told.append(f"{kept_share:.0f} % of the {kind} patches (of all patches {share:.0f} %)")
        if told:
            yield f"Of what {method} keeps, the source is {' and '.join(told)}."


def _pictures(stream: Stream) -> Iterator[dict[str, str]]:
    """Of each method the last picture of each task below ``pictures/``, of its first run that has any."""
    for method, runs in stream.methods.items():
        run = next((run for run in runs if any((run.folder / "pictures").rglob("*.png"))), None)
        if run is None:
            continue
        last: dict[tuple[str, str], tuple[int, Any]] = {}
        for path in sorted((run.folder / "pictures").rglob("*.png")):
            match = PICTURE.fullmatch(path.stem)
            key = (match["what"], match["task"]) if match else ("", path.stem)
            number = int(match["number"]) if match else 0
            if key not in last or number >= last[key][0]:
                last[key] = (number, path)
        for (what, task), (number, path) in sorted(last.items(), key=lambda item: (item[0][0], item[1][0])):
            told = f"{what or 'selection'} after {task}" if number else path.stem
            caption = f"{method}, seed {run.seed}: {told}"
            yield {"caption": caption, "uri": _data("image/png", path.read_bytes())}


def _run(run: FoundRun, method: str) -> dict[str, Any]:
    bad = run.results.get("bad_clips") or {}
    return {
        "method": method, "seed": run.seed, "folder": str(run.folder), "device": run.manifest.get("device", "-"),
        "boundaries": "yes" if run.manifest.get("needs_boundaries") else "no",
        "resumed": len(run.manifest.get("resumed", [])), "bad": bad,
    }  # fmt: skip


def _versions(stream: Stream) -> list[tuple[str, str]]:
    """Versions and commit; several where runs differ."""
    every: dict[str, dict[str, None]] = {}
    for run in stream.runs:
        for name, version in {**run.manifest["versions"], "commit": run.manifest.get("commit")}.items():
            every.setdefault(name, {})[str(version or "-")] = None
    return [(name, ", ".join(versions)) for name, versions in every.items()]


def _shared(stream: Stream) -> list[tuple[str, str]]:
    settings = [run.settings for run in stream.runs]
    other = set(differing(settings))
    return [(key, said(value)) for key, value in settings[0].items() if key not in other]


def _selection(run: FoundRun, key: str) -> float | None:
    values = run.results["metrics"].get("selection", {}).get("scores", {}).get(key, {}).get("average")
    return values[-1] if values else None


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values if value is not None]


def _mean_cell(values: Sequence[float]) -> Cell:
    if not values:
        return Cell()
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
