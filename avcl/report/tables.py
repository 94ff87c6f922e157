"""What a run found, as tables: gallery and chance stand beside the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
            cell = summary_of(measure, "average")
            beside = f" ({'at chance:' if cell.mark else 'chance'} {Cell(measure.get('chance'))})"
            said.append(f"{MEASURES[name]} {cell.number}{beside}")
        if (lost := summary_of(found.get("R@mean", {}), "forgetting")).mean is not None:
            said.append(f"forgetting (mean recall) {lost}")
        if said:
            yield f"{what}: {', '.join(said)}; {gallery_of(found.values())}"


def _sheets(results: Results) -> Iterator[tuple[str, Sheet]]:
    """The tables of a run and their titles."""
    for measures in (metric["measures"] for metric in results["metrics"].values() if metric.get("measures")):
        found = {what: [measures.get(f"{way}/{name}", {}) for name, _ in OVERVIEW] for way, what in DIRECTIONS.items()}
        found = {what: column for what, column in found.items() if any(column)}
        if not found:
            continue
        gallery = gallery_of(measures.values())
        for direction, what in DIRECTIONS.items():
            if mean := measures.get(f"{direction}/R@mean"):
                yield f"{what}: mean of R@1, R@5 and R@10, percent; {gallery}", _matrix(results["tasks"], mean)
        columns = [[summary_of(m, s) for m, (_, s) in zip(column, OVERVIEW, strict=True)] for column in found.values()]
        columns.append(_chances([measure.get("chance") for measure in next(iter(found.values()))]))
        rows = list(zip(HEAD, zip(*columns, strict=True), strict=True))
        yield f"after the last task, mean over tasks; {gallery}", Sheet("measure", [*found, "chance"], {"": rows})


def _matrix(tasks: Sequence[str], measure: Measure) -> Sheet:
    rows = []
    after, queries = measure.get("after", tasks), measure.get("queries", ())
    for number, scores in enumerate(measure["matrix"]):
        cells = [_marked(measure, score, queries[i : i + 1]) for i, score in enumerate(scores)]
        rows.append((after[number], [*cells, *(summary_of(measure, summary, number) for summary in SUMMARIES)]))
    chance = Cell(measure.get("chance"))
    beside = [Cell() if summary == "forgetting" else chance for summary in SUMMARIES]
    rows.append(("chance", [*[chance] * len(tasks), *beside]))
    return Sheet("after", [*tasks, *SUMMARIES.values()], {"": rows})


def summary_of(measure: Measure, summary: str, number: int = -1) -> Cell:
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


def gallery_of(measures: Iterable[Measure]) -> str:
    """In words: ``gallery 512``, or ``gallery 510-512`` where not all are equal."""
    sizes = sorted(measure["gallery"] for measure in measures if "gallery" in measure)
    return f"gallery {'-'.join(map(str, sorted({sizes[0], sizes[-1]})))}" if sizes else "gallery unknown"
