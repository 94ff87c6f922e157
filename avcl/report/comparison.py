"""What many runs found, by method: mean, deviation and interval over seeds, and a paired test against one method."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

from avcl.errors import UserError, nearest
from avcl.report.sheet import Cell, Sheet, rounded
from avcl.report.tables import DIRECTIONS, MEASURES, SUMMARIES, Measure, Results, gallery_of, summary_of

CONFIDENCE = 0.95

Column = tuple[str, str]
"""A measure such as ``a2v/R@10``, and a summary of it."""

BOTH = "both"
WAYS = {BOTH: "both directions (mean)", **DIRECTIONS}
COLUMNS: tuple[Column, ...] = tuple(
    (f"{way}/{name}", summary) for way, name, summary in product(WAYS, MEASURES, SUMMARIES)
)
"""All that is compared; in CSV a row each."""

LETTERS = {"average": "A", "forgetting": "F", "learning_accuracy": "LA"}
LEGEND = "A average, F forgetting, LA learning accuracy"
RECALLS = ("R@1", "R@5", "R@10", "R@mean")
OVERVIEW = (*product(RECALLS, ("average", "forgetting")), ("R@mean", "learning_accuracy"))
"""(measure, summary) of the columns for each direction, as in the paper's Table 1."""
HEAD = [f"{MEASURES[name].replace(' recall', '')} {LETTERS[summary]}" for name, summary in OVERVIEW]


class Difference(NamedTuple):
    """Mean of the paired differences over shared seeds, its interval, and p of the paired t-test; of ``pairs`` seeds.

    None where they are not defined: of one pair, or where all differences are the same.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int


@dataclass
class Comparison:
    """What the runs of each method on one stream show after the last task.

    ``values``: by method and column the value of each seed · ``rows``: the same as cells with their marks ·
    ``differences``: from the method ``against``, over the seeds that both have · ``chance``: by measure, None where it
    is not known · ``gallery``: sizes of all runs' galleries, in words. A mean over seeds is held to the error of one
    run, because the runs share their clips.
    """

    values: dict[str, dict[Column, dict[int, float]]]
    rows: dict[str, dict[Column, Cell]]
    chance: dict[str, float | None]
    gallery: str
    seeds: dict[str, list[int]]
    joint: set[str]
    against: str = ""
    differences: dict[str, dict[Column, Difference]] = field(default_factory=dict)

    def sheets(self) -> Iterator[tuple[str, Sheet]]:
        """Titles and tables for people: the short one, the paper's, and the paired test."""
        yield f"mean recall (of R@1, R@5, R@10) of both directions, percent; {self.gallery}", self._short()
        yield f"zero-shot retrieval after the last task, percent, mean ± standard deviation; {LEGEND}", self._long()
        if self.against:
            told = "paired t-test over the shared seeds, p not corrected for several comparisons"
            yield f"difference from {self.against}, mean recall, with 95 % interval; {told}", self._paired()

    def _short(self) -> Sheet:
        head = ["A", "F", "LA", "seeds", "95 % interval of A", "of F", "of LA"]
        columns = [(f"{BOTH}/R@mean", summary) for summary in SUMMARIES]
        rows = []
        for method, cells in self.rows.items():
            bounds = [interval(list(self.values[method][column].values())) for column in columns]
            told = [str(len(self.seeds[method])), *map(between, bounds)]
            rows.append((method, [*(cells[column] for column in columns), *(Cell(text=text) for text in told)]))
        chance, none = Cell(self.chance[f"{BOTH}/R@mean"]), Cell(text="-")
        return Sheet("method", head, {"": [*rows, ("chance", [chance, none, chance, none, none, none, none])]})

    def _long(self) -> Sheet:
        sections = {}
        for way, what in DIRECTIONS.items():
            rows = [(m, [cells[f"{way}/{name}", s] for name, s in OVERVIEW]) for m, cells in self.rows.items()]
            chances = [Cell(None if s == "forgetting" else self.chance[f"{way}/{name}"]) for name, s in OVERVIEW]
            sections[f"{what}; {self.gallery}"] = [*rows, ("chance", chances)]
        return Sheet("method", HEAD, sections)

    def _paired(self) -> Sheet:
        summaries = ("average", "forgetting", "learning_accuracy")
        head = ["pairs", *(part for s in summaries for part in (LETTERS[s], "p"))]
        sections: dict[str, list[tuple[str, list[Cell]]]] = {}
        for way, what in WAYS.items():
            rows = sections[what] = []
            for method, found in self.differences.items():
                told = [found.get((f"{way}/R@mean", summary)) for summary in summaries]
                pairs = max((one.pairs for one in told if one), default=0)
                cells = [Cell(text=text) for one in told for text in _told(one)]
                rows.append((method, [Cell(text=str(pairs)), *cells]))
        return Sheet("method", head, sections)

    def csv(self, stream: str = "") -> str:
        """For programs: a row for each method and column, every number in full; ``stream`` is in the first column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        paired = ["against", "pairs", "difference", "difference_low", "difference_high", "p"] if self.against else []
        head = ["stream", "method", "direction", "measure", "summary", "mean", "deviation", "low", "high"]
        writer.writerow([*head, "seeds", "chance", "gallery", *paired])
        for method, (measure, summary) in product(self.rows, COLUMNS):
            way, _, name = measure.partition("/")
            cell, found = self.rows[method][measure, summary], self.values[method][measure, summary]
            chance = self.chance[measure] if summary != "forgetting" else None
            about = [" ".join(map(str, found)), chance, self.gallery.removeprefix("gallery ")]
            low, high = interval(list(found.values())) or (None, None)
            line: list[Any] = [stream, method, way, name, summary, cell.mean, cell.deviation, low, high, *about]
            if self.against:
                one = self.differences.get(method, {}).get((measure, summary))
                line += [self.against, *((one.pairs, one.mean, one.low, one.high, one.p) if one else [None] * 5)]
            writer.writerow(line)
        return text.getvalue()


def compare(runs: Mapping[str, Sequence[Results]], against: str = "") -> Comparison:
    """What the runs of each method on one stream found, those first that learned task by task.

    ``against``: the method to test the others against, seed by seed; UserError where there is none of that name.
    """
    if against and against not in runs:
        raise UserError(f"--against: no runs of {against!r}{nearest(against, runs)}")
    joint = {method for method, found in runs.items() if any(_joint(results) for results in found)}
    methods = sorted(runs, key=lambda method: method in joint)
    every = {name: [measure_of(r, name) for m in methods for r in runs[m]] for name, _ in COLUMNS}
    chances = {name: [m["chance"] for m in measures if "chance" in m] for name, measures in every.items()}
    made = Comparison(
        values={method: {column: _values(runs[method], column) for column in COLUMNS} for method in methods},
        rows={},
        chance={name: statistics.fmean(values) if values else None for name, values in chances.items()},
        gallery=gallery_of(measure for measures in every.values() for measure in measures),
        seeds={method: [results["seed"] for results in runs[method]] for method in methods},
        joint=joint,
        against=against,
    )
    made.rows = {method: {c: _cell(runs[method], c, made.values[method][c]) for c in COLUMNS} for method in methods}
    _mark(made)
    for method in methods if against else ():
        if method != against:
            pairs = {c: paired(made.values[method][c], made.values[against][c]) for c in COLUMNS}
            made.differences[method] = {column: one for column, one in pairs.items() if one is not None}
    return made


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of their mean, by Student's t; None of fewer than two."""
    if len(values) < 2:
        return None
    from scipy import stats

    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values`` minus ``reference`` over the seeds that both have, with the paired t-test; None without such."""
    seeds = [seed for seed in values if seed in reference]
    if not seeds:
        return None
    differences = [values[seed] - reference[seed] for seed in seeds]
    mean = statistics.fmean(differences)
    if len(seeds) < 2 or statistics.stdev(differences) < 1e-9:  # all the same but for rounding: nothing to test
        return Difference(mean, None, None, None, len(seeds))
    from scipy import stats

    test = stats.ttest_rel([values[seed] for seed in seeds], [reference[seed] for seed in seeds])
    low, high = test.confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), float(test.pvalue), len(seeds))


def between(bounds: tuple[float, float] | None) -> str:
    """An interval as it is shown."""
    return "-" if bounds is None else f"{rounded(bounds[0])} to {rounded(bounds[1])}"


def measure_of(results: Results, name: str) -> Measure:
    """A measure of retrieval by its name; of ``both`` the mean of the two directions, whose clips are the same."""
    measures = results["metrics"].get("retrieval", {}).get("measures", {})
    way, _, what = name.partition("/")
    if way != BOTH:
        return measures.get(name, {})
    a, b = (measures.get(f"{direction}/{what}", {}) for direction in DIRECTIONS)
    if not a or not b:
        return {}
    halves = {key: _half(a[key], b[key]) for key in ("matrix", *SUMMARIES) if key in a and key in b}
    if "anytime" in a and "anytime" in b:
        halves["anytime"] = {**a["anytime"], "average": _half(a["anytime"]["average"], b["anytime"]["average"])}
    return {**a, **halves}


def _half(a: Any, b: Any) -> Any:
    if isinstance(a, list):
        return [_half(x, y) for x, y in zip(a, b, strict=True)]
    return None if a is None or b is None else (a + b) / 2


def _values(runs: Sequence[Results], column: Column) -> dict[int, float]:
    found = {results["seed"]: summary_of(measure_of(results, column[0]), column[1]).mean for results in runs}
    return {seed: value for seed, value in found.items() if value is not None}


def _cell(runs: Sequence[Results], column: Column, values: Mapping[int, float]) -> Cell:
    """Mean and deviation of all runs; empty where one of them has no such number."""
    if not values or len(values) < len(runs):
        return Cell()
    name, summary = column
    deviation = statistics.stdev(values.values()) if len(values) > 1 else None
    measure = measure_of(runs[0], name)
    mean = [*measure[summary][:-1], statistics.fmean(values.values())]
    return summary_of({**measure, summary: mean}, summary)._replace(deviation=deviation)


def _mark(made: Comparison) -> None:
    """Best and second as they are shown, among methods that had to learn task by task and are above chance."""
    for column in COLUMNS:
        measure, summary = column
        learned = [  # at chance nothing was learned that could be kept
            cells for method, cells in made.rows.items()
            if method not in made.joint and "chance" not in (cells[measure, "average"].mark, cells[column].mark)
        ]  # fmt: skip
        shown = [(round(mean, 1), cells) for cells in learned if (mean := cells[column].mean) is not None]
        lower_is_better = summary == "forgetting" or measure.endswith("median_rank")
        ranked = sorted({value for value, _ in shown}, reverse=not lower_is_better)
        marks: dict[float, Literal["best", "second"]] = dict(zip(ranked, ("best", "second"), strict=False))
        for value, cells in shown:
            cells[column] = cells[column]._replace(mark=marks.get(value, ""))


def _told(one: Difference | None) -> tuple[str, str]:
    """A difference with its interval, and p."""
    if one is None:
        return "-", "-"
    sign = "+" if one.mean > 0 else ""
    bounds = "" if one.low is None or one.high is None else f" ({rounded(one.low)} to {rounded(one.high)})"
    p = "-" if one.p is None else "<0.001" if one.p < 0.001 else f"{one.p:.3f}"
    return f"{sign}{rounded(one.mean)}{bounds}", p


def _joint(results: Results) -> bool:
    """Whether all tasks were trained on at once: no rival of methods that had to learn one by one."""
    return "after" in measure_of(results, "a2v/R@mean")
