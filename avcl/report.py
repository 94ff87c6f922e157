"""What a run found, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table


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
    return "-" if value is None else f"{value:.1f}"


def matrix_markdown(tasks: Sequence[str], measure: Mapping[str, Any]) -> str:
    """The same table in Markdown."""
    rows = [["after", *tasks, "average", "forgetting"], ["---", *["---:"] * (len(tasks) + 2)]]
    for number, row in enumerate(measure["matrix"]):
        summary = (measure["average"][number], measure["forgetting"][number])
        rows.append([_after(tasks, measure)[number], *(_percent(value) for value in (*row, *summary))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
