"""What a run found, and what many runs found, as tables: gallery and chance stand beside the numbers."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from rich.table import Table

from avcl.metrics.chance import at_chance
from avcl.report.sheet import Cell, Sheet

Results = Mapping[str, Any]
"""What ``Run.train`` returns and ``results.json`` holds."""

Measure = Mapping[str, Any]
"""A measure of ``results.json``: its task matrix, summaries over time, and chance."""

DIRECTIONS = {"a2v": "audio -> video (a2v)", "v2a": "video -> audio (v2a)"}
MEASURES = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "R@mean": "mean recall", "median_rank": "median rank"}
SUMMARIES = {"average": "average", "forgetting": "forgetting", "learning_accuracy": "learning accuracy"}

OVERVIEW = (*((name, "average") for name in MEASURES), ("R@mean", "forgetting"), ("R@mean", "learning_accuracy"))
"""(measure, summary) of the columns of a table of either direction."""
HEAD = [f"{SUMMARIES[s]} ({MEASURES[name]})" if s != "average" else MEASURES[name] for name, s in OVERVIEW]

COMPARED = ("a2v/R@10", "a2v/R@mean", "v2a/R@10", "v2a/R@mean")
ALL = tuple(f"{direction}/{name}" for direction in DIRECTIONS for name in MEASURES)
COLUMNS = tuple(dict.fromkeys((*product(COMPARED, ("average", "forgetting")), *product(ALL, SUMMARIES))))
"""(measure, summary) of a comparison's cells; programs may rely on the places of the first ones."""


# ---- one run -------------------------------------------------------------------------------------------------


def matrix_table(title: str, tasks: Sequence[str], measure: Measure) -> Table:
    """The task matrix of one measure: a row for each evaluation with its summaries, then chance."""
    return _matrix(tasks, measure).table(title)


def matrix_markdown(tasks: Sequence[str], measure: Measure) -> str:
    """The same table in Markdown."""
    return _matrix(tasks, measure).markdown()


def run_tables(results: Results) -> list[Table]:
    """For the terminal: the mean recall of each direction after every task, then all measures after the last."""
    return [sheet.table(title) for title, sheet in _sheets(results)]


def run_markdown(results: Results) -> str:
    """The same for a model card."""
    return "\n\n".join(f"{title}\n\n{sheet.markdown()}" for title, sheet in _sheets(results))


def progress_lines(measures: Mapping[str, Measure]) -> Iterator[str]:
    """What the last evaluation found, a line for each direction, every number beside its chance."""
    for direction, what in DIRECTIONS.items():
        found = {name: measure for name in MEASURES if (measure := measures.get(f"{direction}/{name}"))}
        said = []
        for name, measure in found.items():
            cell = _summary(measure, "average")
            beside = f" ({'at chance:' if cell.mark else 'chance'} {Cell(measure.get('chance'))})"
            said.append(f"{MEASURES[name]} {cell.number}{beside}")
        if (lost := _summary(found.get("R@mean", {}), "forgetting")).mean is not None:
            said.append(f"forgetting (mean recall) {lost}")
        if said:
            yield f"{what}: {', '.join(said)}; {_gallery(found.values())}"


def _sheets(results: Results) -> Iterator[tuple[str, Sheet]]:
    """The tables of a run and their titles."""
    for measures in (metric["measures"] for metric in results["metrics"].values() if metric.get("measures")):
        found = {what: [measures.get(f"{way}/{name}", {}) for name, _ in OVERVIEW] for way, what in DIRECTIONS.items()}
        found = {what: column for what, column in found.items() if any(column)}
        if not found:
            continue
        gallery = _gallery(measures.values())
        for direction, what in DIRECTIONS.items():
            if mean := measures.get(f"{direction}/R@mean"):
                yield f"{what}: mean of R@1, R@5 and R@10, percent; {gallery}", _matrix(results["tasks"], mean)
        columns = [[_summary(m, s) for m, (_, s) in zip(column, OVERVIEW, strict=True)] for column in found.values()]
        columns.append(_chances([measure.get("chance") for measure in next(iter(found.values()))]))
        rows = list(zip(HEAD, zip(*columns, strict=True), strict=True))
        yield f"after the last task, mean over tasks; {gallery}", Sheet("measure", [*found, "chance"], {"": rows})


def _matrix(tasks: Sequence[str], measure: Measure) -> Sheet:
    rows = []
    after, queries = measure.get("after", tasks), measure.get("queries", ())
    for number, scores in enumerate(measure["matrix"]):
        cells = [_marked(measure, score, queries[i : i + 1]) for i, score in enumerate(scores)]
        rows.append((after[number], [*cells, *(_summary(measure, summary, number) for summary in SUMMARIES)]))
    chance = Cell(measure.get("chance"))
    beside = [Cell() if summary == "forgetting" else chance for summary in SUMMARIES]
    rows.append(("chance", [*[chance] * len(tasks), *beside]))
    return Sheet("after", [*tasks, *SUMMARIES.values()], {"": rows})


def _summary(measure: Measure, summary: str, number: int = -1) -> Cell:
    """A summary after an evaluation, by default the last; empty where the measure has none."""
    values = measure.get(summary)
    if not values:
        return Cell()
    if summary == "forgetting":
        return Cell(values[number])
    seen = None if "after" in measure else range(len(values))[number] + 1
    return _marked(measure, values[number], measure.get("queries", ())[:seen])


def _marked(measure: Measure, value: float | None, queries: Sequence[int]) -> Cell:
    return Cell(value, mark="chance" if at_chance(measure, value, queries) else "")


def _chances(chances: Iterable[float | None]) -> list[Cell]:
    """Chance beside what ``OVERVIEW`` lists."""
    pairs = zip(chances, OVERVIEW, strict=True)
    return [Cell(None if summary == "forgetting" else chance) for chance, (_, summary) in pairs]


def _gallery(measures: Iterable[Measure]) -> str:
    """``gallery 512``, or ``gallery 510-512`` where not all are equal."""
    sizes = sorted(measure["gallery"] for measure in measures if "gallery" in measure)
    return f"gallery {'-'.join(map(str, sorted({sizes[0], sizes[-1]})))}" if sizes else "gallery unknown"


# ---- many runs -----------------------------------------------------------------------------------------------


class Comparison(dict[str, list[Cell]]):
    """By method, what its runs of different seeds show after the last task: a cell for each of ``COLUMNS``.

    ``chance``: by measure, None where it is not known · ``gallery``: the size of all runs' galleries, in words.
    A mean over seeds is held to the error of one run, because the runs share their clips.
    """

    chance: Mapping[str, float | None]
    gallery: str

    def sheet(self) -> Sheet:
        """For people: a section for each direction, a row for each method, and chance."""
        sections = {}
        for direction, what in DIRECTIONS.items():
            places = [COLUMNS.index((f"{direction}/{name}", summary)) for name, summary in OVERVIEW]
            rows = [(method, [cells[place] for place in places]) for method, cells in self.items()]
            chances = _chances(self.chance[f"{direction}/{name}"] for name, _ in OVERVIEW)
            sections[f"{what}; {self.gallery}"] = [*rows, ("chance", chances)]
        return Sheet("method", HEAD, sections)


def compare(runs: Mapping[str, Sequence[Results]]) -> Comparison:
    """What the runs of each method found, those first that learned task by task."""
    methods = sorted(runs, key=lambda method: _joint(runs[method]))
    rows = Comparison({method: [_cell(runs[method], *column) for column in COLUMNS] for method in methods})
    every = {name: [_measure(results, name) for found in runs.values() for results in found] for name in ALL}
    chances = {name: [m["chance"] for m in measures if "chance" in m] for name, measures in every.items()}
    rows.chance = {name: statistics.fmean(values) if values else None for name, values in chances.items()}
    rows.gallery = _gallery(measure for measures in every.values() for measure in measures)
    rivals = [method for method in methods if not _joint(runs[method])]
    for number, (measure, summary) in enumerate(COLUMNS):
        average = COLUMNS.index((measure, "average"))  # at chance nothing was learned that could be kept
        learned = [m for m in rivals if "chance" not in (rows[m][average].mark, rows[m][number].mark)]
        shown = {m: round(mean, 1) for m in learned if (mean := rows[m][number].mean) is not None}
        low = summary == "forgetting" or measure.endswith("median_rank")
        best = (min if low else max)(shown.values(), default=None)
        for method in (method for method, value in shown.items() if value == best):
            rows[method][number] = rows[method][number]._replace(mark="best")
    return rows


def comparison_table(title: str, rows: Comparison) -> Table:
    """For people; the best of each column in bold."""
    return rows.sheet().table(title)


def comparison_markdown(rows: Comparison) -> str:
    """For a page; the best of each column in bold."""
    return rows.sheet().markdown()


def comparison_latex(rows: Comparison) -> str:
    """For a paper that loads ``booktabs``; the best of each column in bold."""
    return rows.sheet().latex()


def comparison_csv(rows: Comparison) -> str:
    """For programs: every mean, deviation and chance in a column of its own, in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"{measure} {summary} {kind}" for measure, summary in COLUMNS for kind in ("mean", "deviation")]
    writer.writerow(["method", *heads, *(f"{measure} chance" for measure in rows.chance), "gallery"])
    about = [*rows.chance.values(), rows.gallery.removeprefix("gallery ")]
    for method, cells in rows.items():
        writer.writerow([method, *(value for cell in cells for value in cell[:2]), *about])
    return text.getvalue()


def _measure(results: Results, name: str) -> Measure:
    return results["metrics"]["retrieval"]["measures"].get(name, {})


def _joint(runs: Sequence[Results]) -> bool:
    """Whether all tasks were trained on at once: no rival of methods that had to learn one by one."""
    return any("after" in _measure(results, COMPARED[0]) for results in runs)


def _cell(runs: Sequence[Results], name: str, summary: str) -> Cell:
    measures = [_measure(results, name) for results in runs]
    values = [value for measure in measures if (value := _summary(measure, summary).mean) is not None]
    if not values or len(values) < len(measures):
        return Cell()
    deviation = statistics.stdev(values) if len(values) > 1 else None
    mean = [*measures[0][summary][:-1], statistics.fmean(values)]
    return _summary({**measures[0], summary: mean}, summary)._replace(deviation=deviation)
