"""Tables of one run, from results made by hand: every number beside gallery and chance."""

import io

from rich.console import Console

from avcl.metrics.chance import median_rank_chance, recall_chance
from avcl.report.tables import DIRECTIONS, progress_lines, run_markdown, run_tables

DIM = "\x1b[2m"
A2V, V2A = "audio -> video (a2v)", "video -> audio (v2a)"
KS = {"R@1": [1], "R@5": [5], "R@10": [10], "R@mean": [1, 5, 10], "median_rank": []}


def found(average, forgetting, learning=None, gallery=400):
    """Results whose every measure ends with these; what came before the last task must not count."""
    measures = {}
    for name, ks in ((f"{way}/{name}", ks) for way in DIRECTIONS for name, ks in KS.items()):
        chance, deviation = recall_chance(ks, gallery) if ks else median_rank_chance(gallery)
        measures[name] = {
            "matrix": [[99.0, 0.0], [average, average]],
            "average": [99.0, average],
            "forgetting": [None, forgetting],
            "learning_accuracy": [99.0, learning],
            "queries": [gallery // 2, gallery // 2],
            "gallery": gallery,
            "chance": chance,
            "chance_deviation": deviation,
            "higher_is_better": bool(ks),
        }
    metrics = {"retrieval": {"gallery": gallery, "measures": measures}, "speed": {}}
    return {"tasks": ["birds", "trains"], "metrics": metrics}


def shown(*tables, colours="standard"):
    """What a wide terminal shows."""
    told = io.StringIO()
    Console(file=told, force_terminal=bool(colours), width=300, color_system=colours).print(*tables)
    return told.getvalue()


def lines_of(text, label):
    return [line for line in text.splitlines() if line.strip().startswith(label)]


def test_a_run_shows_every_measure_beside_gallery_and_chance():
    results = found(60.0, 2.5, learning=61.5)
    lines = run_markdown(results).splitlines()
    for direction in (A2V, V2A):
        assert f"{direction}: mean of R@1, R@5 and R@10, percent; gallery 400" in lines
    assert lines.count("| after | birds | trains | average | forgetting | learning accuracy |") == 2
    assert lines.count("| trains | 60.0 | 60.0 | 60.0 | 2.5 | 61.5 |") == 2
    assert lines.count("| chance | 1.3 | 1.3 | 1.3 | - | 1.3 |") == 2
    assert lines[-9:] == [
        f"| measure | {A2V} | {V2A} | chance |",
        "| --- | ---: | ---: | ---: |",
        "| R@1 | 60.0 | 60.0 | 0.2 |",
        "| R@5 | 60.0 | 60.0 | 1.2 |",
        "| R@10 | 60.0 | 60.0 | 2.5 |",
        "| mean recall | 60.0 | 60.0 | 1.3 |",
        "| median rank | 60.0 | 60.0 | 200.5 |",
        "| forgetting (mean recall) | 2.5 | 2.5 | - |",
        "| learning accuracy (mean recall) | 61.5 | 61.5 | 1.3 |",
    ]
    words = {word for line in lines for word in line.split()} - {"|", "---", "---:"}
    assert words <= set(shown(*run_tables(results), colours=None).split())


def test_a_model_at_chance_looks_like_one():
    """Own videos in a gallery of 8: R@10 is 100 % whatever the model does."""
    results = found(100.0, 0.0, learning=12.5, gallery=8)
    measures = results["metrics"]["retrieval"]["measures"]
    for key in ("a2v/R@1", "a2v/R@mean"):
        measures[key]["average"] = [12.5, 12.5]
    measures["a2v/median_rank"]["average"] = [4.5, 4.5]
    assert run_markdown(results).splitlines()[-7:-2] == [
        "| R@1 | 12.5 (chance) | 100.0 | 12.5 |",
        "| R@5 | 100.0 | 100.0 | 62.5 |",
        "| R@10 | 100.0 (chance) | 100.0 (chance) | 100.0 |",
        "| mean recall | 12.5 (chance) | 100.0 | 58.3 |",
        "| median rank | 4.5 (chance) | 100.0 (chance) | 4.5 |",
    ]
    *_, line = lines_of(shown(*run_tables(results)), "R@10")
    assert line.count(DIM) == line.count("100.0 (chance)") == 2
    line = next(progress_lines(measures))
    assert "R@1 12.5 (at chance: 12.5), R@5 100.0 (chance 62.5), R@10 100.0 (at chance: 100.0)" in line


def test_the_progress_line():
    assert list(progress_lines(found(60.0, 2.5)["metrics"]["retrieval"]["measures"])) == [
        f"{direction}: R@1 60.0 (chance 0.2), R@5 60.0 (chance 1.2), R@10 60.0 (chance 2.5), mean recall 60.0 (chance "
        "1.3), median rank 60.0 (chance 200.5), forgetting (mean recall) 2.5; gallery 400"
        for direction in (A2V, V2A)
    ]


def test_results_without_chance_are_shown_as_they_are():
    """Of an older version, or of another metric."""
    measure = {"matrix": [[50.0]], "average": [50.0], "forgetting": [None]}
    results = {"tasks": ["birds"], "metrics": {"retrieval": {"measures": {"a2v/R@10": measure}}, "speed": {}}}
    (table,) = run_tables(results)
    assert "50.0" in shown(table) and "gallery unknown" in shown(table, colours=None)
    (line,) = progress_lines(results["metrics"]["retrieval"]["measures"])
    assert line == f"{A2V}: R@10 50.0 (chance -); gallery unknown"
