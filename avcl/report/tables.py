"""What a run found, and what many runs found, as tables."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Results = Mapping[str, Any]
"""What ``Run.train`` returns and ``results.json`` holds."""

COMPARED = ("a2v/R@10", "a2v/R@mean", "v2a/R@10", "v2a/R@mean")
SUMMARIES = ("average", "forgetting")


def matrix_table(title: str, tasks: Sequence[str], measure: Mapping[str, Any]) -> Table:
    """The task matrix of one measure: a row for each evaluation, then average and forgetting, in percent."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("after")
    for task in tasks:
        table.add_column(task, justify="right", overflow="fold")
    table.add_column("average", justify="right")
    table.add_column("forgetting", justify="right")
    for number, row in enumerate(measure["matrix"]):
        summary = (measure["average"][number], measure["forgetting"][number])
        table.add_row(_after(tasks, measure)[number], *(_percent(value) for value in (*row, *summary)))
    return table


def _after(tasks: Sequence[str], measure: Mapping[str, Any]) -> Sequence[str]:
    """What each row was evaluated after: the tasks, unless the measure says otherwise."""
    return measure.get("after", tasks)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"  # never -0.0


def matrix_markdown(tasks: Sequence[str], measure: Mapping[str, Any]) -> str:
    """The same table in Markdown."""
    rows = [["after", *tasks, "average", "forgetting"], ["---", *["---:"] * (len(tasks) + 2)]]
    for number, row in enumerate(measure["matrix"]):
        summary = (measure["average"][number], measure["forgetting"][number])
        rows.append([_after(tasks, measure)[number], *(_percent(value) for value in (*row, *summary))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


class Cell(NamedTuple):
    """One number of a comparison, over runs of different seeds: ``mean`` and standard ``deviation``.

    ``mean`` is None where it is not defined, ``deviation`` also where there is but one run. ``best``: no other
    method that had to learn task by task shows a better one.
    """

    mean: float | None
    deviation: float | None
    best: bool = False

    def __str__(self) -> str:
        return _percent(self.mean) + ("" if self.deviation is None else f" ± {_percent(self.deviation)}")


Comparison = Mapping[str, Sequence[Cell]]
"""By method: average and forgetting of each of ``COMPARED`` after the last task, in percent."""


def compare(runs: Mapping[str, Sequence[Results]]) -> Comparison:
    """What the runs of each method found, those first that learned task by task."""
    methods = sorted(runs, key=lambda method: _joint(runs[method]))
    rows = {method: [_cell(runs[method], *column) for column in _columns()] for method in methods}
    rivals = [method for method in methods if not _joint(runs[method])]
    for number, (_, summary) in enumerate(_columns()):
        shown = {m: round(mean, 1) for m in rivals if (mean := rows[m][number].mean) is not None}
        best = (max if summary == "average" else min)(shown.values(), default=None)
        for method, value in shown.items():
            rows[method][number] = rows[method][number]._replace(best=value == best)
    return rows


def comparison_table(title: str, rows: Comparison) -> Table:
    """For people; the best of each column in bold."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method")
    for measure, summary in _columns():
        table.add_column(f"{measure}\n{summary}", justify="right")
    for method, cells in rows.items():
        table.add_row(method, *(Text(str(cell), style="bold" if cell.best else "") for cell in cells))
    return table


def comparison_csv(rows: Comparison) -> str:
    """For programs: every mean and every deviation in a column of its own, in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    kinds = ("mean", "deviation")
    writer.writerow(["method", *(f"{measure} {summary} {kind}" for measure, summary in _columns() for kind in kinds)])
    for method, cells in rows.items():
        writer.writerow([method, *(value for cell in cells for value in cell[:2])])
    return text.getvalue()


def comparison_latex(rows: Comparison) -> str:
    """For a paper that loads ``booktabs``; the best of each column in bold."""
    span = len(SUMMARIES)
    above = "".join(f" & \\multicolumn{{{span}}}{{c}}{{{_latex(measure)}}}" for measure in COMPARED)
    below = "".join(f" & {summary}" for _, summary in _columns())
    lines = [
        rf"\begin{{tabular}}{{l{'r' * span * len(COMPARED)}}}",
        r"\toprule",
        rf"{above} \\",
        rf"method{below} \\",
        r"\midrule",
        *(rf"{_latex(method)} & {' & '.join(map(_latex_cell, cells))} \\" for method, cells in rows.items()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _columns() -> Iterator[tuple[str, str]]:
    return ((measure, summary) for measure in COMPARED for summary in SUMMARIES)


def _measure(results: Results, name: str) -> Mapping[str, Any]:
    return results["metrics"]["retrieval"]["measures"][name]


def _joint(runs: Sequence[Results]) -> bool:
    """Whether all tasks were trained on at once: no rival of methods that had to learn one by one."""
    return any("after" in _measure(results, COMPARED[0]) for results in runs)


def _cell(runs: Sequence[Results], measure: str, summary: str) -> Cell:
    values = [_measure(results, measure)[summary][-1] for results in runs]
    if None in values:
        return Cell(None, None)
    return Cell(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _latex_cell(cell: Cell) -> str:
    text = str(cell).replace("±", r"$\pm$")
    return rf"\textbf{{{text}}}" if cell.best else text


def _latex(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&").replace("%", r"\%").replace("#", r"\#")
