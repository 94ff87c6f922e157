"""What many runs say at one glance, in sentences: which method forgets least, where, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from avcl.report.comparison import BOTH, Column, Comparison, measure_of, paired
from avcl.report.runs import FoundRun, Stream
from avcl.report.sheet import Cell, Sheet, rounded
from avcl.utils.console import counted

MEASURE = f"{BOTH}/R@mean"
FEWEST = 3  # pairs of runs, below which a t-test is a toss of coins
AVERAGE, FORGETTING, LEARNING = ((MEASURE, name) for name in ("average", "forgetting", "learning_accuracy"))


def headline(stream: Stream, comparison: Comparison) -> Iterator[str]:
    """The sentences, most important first; the numbers are mean recall of both directions."""
    rows = comparison.rows
    chance = rounded(comparison.chance[MEASURE])
    rivals = [m for m in rows if m not in comparison.joint and rows[m][AVERAGE].mean is not None]
    above = [m for m in rivals if rows[m][AVERAGE].mark != "chance"]
    if not above:
        yield f"No method is above chance ({chance} %): nothing was learned that could be forgotten."
        return
    kept = sorted((m for m in above if rows[m][FORGETTING].mean is not None), key=lambda m: _mean(rows, m, FORGETTING))
    best = sorted(above, key=lambda m: -_mean(rows, m, AVERAGE))
    if kept:
        lost = rows[kept[0]][FORGETTING].number
        yield f"{kept[0]} forgets least: {lost} points{_next(comparison, kept, FORGETTING)}."
    told = f"{rows[best[0]][AVERAGE].number} %, chance {chance}{_next(comparison, best, AVERAGE)}"
    yield f"{best[0]} has the highest average: {told}."
    least = [round(_mean(rows, method, LEARNING), 1) for method in kept]
    if len(kept) > 1 and least[0] < min(least[1:]):
        learned = rounded(rows[kept[0]][LEARNING].mean)
        yield f"But {kept[0]} also learned least: {learned} % after each task; little learned is little to forget."
    if kept:
        yield from _where(stream, kept)
    if below := [m for m in rivals if m not in above]:
        yield f"Not above chance: {', '.join(below)}."


def lost_by_task(stream: Stream) -> tuple[list[str], dict[str, list[float]]]:
    """Tasks but the last, and by method how far each fell from its best evaluation to the last, mean over seeds."""
    every = {method: [drops for run in runs if (drops := _drops(run))] for method, runs in stream.methods.items()}
    found = {method: np.mean(drops, axis=0).tolist() for method, drops in every.items() if drops}
    return stream.runs[0].tasks[:-1], found


def lost_sheet(stream: Stream) -> Sheet:
    """The same as a table."""
    tasks, found = lost_by_task(stream)
    least = [min(round(drop, 1) for drop in drops) for drops in zip(*found.values(), strict=True)]
    rows = [
        (m, [Cell(drop, mark="best" if round(drop, 1) == low else "") for drop, low in zip(drops, least, strict=True)])
        for m, drops in found.items()
    ]
    return Sheet("method", tasks, {"": rows})


def _where(stream: Stream, methods: Sequence[str]) -> Iterator[str]:
    tasks, found = lost_by_task(stream)
    lost = {method: found[method] for method in methods if method in found}
    if len(tasks) < 2 or not lost:
        return
    means = np.mean(list(lost.values()), axis=0)
    task = int(means.argmax())
    least, most = (pick(lost, key=lambda m: lost[m][task]) for pick in (min, max))
    numbers = f"from {rounded(lost[least][task])} points ({least}) to {rounded(lost[most][task])} ({most})"
    yield f"Most is lost of {tasks[task]}: {numbers if least != most else f'{rounded(lost[most][task])} points'}."


def _next(comparison: Comparison, ranked: Sequence[str], column: Column) -> str:
    """The runner-up, and whether the difference can be told from chance of the seeds."""
    if len(ranked) < 2:
        return ""
    first, second = ranked[:2]
    told = f"next is {second} with {comparison.rows[second][column].number}"
    one = paired(comparison.values[first][column], comparison.values[second][column])
    if one is None or one.pairs < FEWEST:
        return f"; {told}; {counted(one.pairs if one else 0, 'shared seed')}, so this is no evidence yet"
    if one.p is None:
        return f"; {told}"
    sure = "p" if one.p < 0.05 else "not told apart, p"
    return f"; {told} ({sure} = {one.p:.2g} over {one.pairs} seeds)"


def _drops(run: FoundRun) -> list[float]:
    """How far each task but the last fell; empty for what did not learn task by task."""
    measure = measure_of(run.results, MEASURE)
    table = np.asarray(measure.get("matrix", []))
    if len(table) < 2 or "after" in measure:
        return []
    return [float(drop) for drop in (table[:-1].max(0) - table[-1])[:-1]]


def _mean(rows: Mapping[str, Mapping[Column, Cell]], method: str, column: Column) -> float:
    mean = rows[method][column].mean
    return float("inf") if mean is None else mean
