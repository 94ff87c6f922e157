"""Tables of one run and of many, from results made by hand: every number beside gallery and chance."""

import csv
import io

import pytest
from rich.console import Console

from avcl.metrics.chance import median_rank_chance, recall_chance
from avcl.report.tables import (
    ALL,
    COLUMNS,
    Cell,
    compare,
    comparison_csv,
    comparison_latex,
    comparison_markdown,
    comparison_table,
    progress_lines,
    run_markdown,
    run_tables,
)

BOLD, DIM = "\x1b[1m", "\x1b[2m"
A2V, V2A = "audio -> video (a2v)", "video -> audio (v2a)"
KS = {"R@1": [1], "R@5": [5], "R@10": [10], "R@mean": [1, 5, 10], "median_rank": []}


def found(average, forgetting, joint=False, learning=None, gallery=400):
    """Results whose every measure ends with these; what came before the last task must not count."""
    measures = {}
    for name in ALL:
        ks = KS[name.partition("/")[2]]
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
        } | ({"after": ["all tasks"] * 2} if joint else {})
    metrics = {"retrieval": {"gallery": gallery, "measures": measures}, "speed": {}}
    return {"tasks": ["birds", "trains"], "metrics": metrics}


def shown(*tables, colours="standard"):
    """What a wide terminal shows."""
    told = io.StringIO()
    Console(file=told, force_terminal=bool(colours), width=300, color_system=colours).print(*tables)
    return told.getvalue()


def lines_of(text, label):
    return [line for line in text.splitlines() if line.strip().startswith(label)]


# ---- one run -------------------------------------------------------------------------------------------------


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
    rows = compare({"er": [{"metrics": {"retrieval": {"measures": {"a2v/R@10": measure}}}}]})
    assert rows["er"][0] == Cell(50.0, None, "best") and rows.chance["a2v/R@10"] is None


# ---- many runs -----------------------------------------------------------------------------------------------


@pytest.fixture
def rows():
    return compare(
        {
            "multi_task": [found(50.0, None, joint=True), found(52.0, None, joint=True)],
            "er": [found(10.0, 4.0), found(14.0, 5.0), found(12.0, 6.0)],
            "stella": [found(20.0, 5.04), found(22.0, 4.94), found(24.0, 5.0)],
            "once": [found(21.96, 7.5, learning=30.0)],
        }
    )


def test_mean_and_standard_deviation_by_hand(rows):
    average, forgetting = rows["er"][:2]
    assert average[:2] == pytest.approx((12, 2)), "of a sample: divided by n - 1"
    assert forgetting[:2] == pytest.approx((5, 1))
    assert rows["once"][0][:2] == (21.96, None), "one run has no deviation"
    assert rows["multi_task"][0][:2] == pytest.approx((51, 2**0.5))
    assert rows["multi_task"][1] == Cell()
    assert {len(cells) for cells in rows.values()} == {len(COLUMNS)} == {2 * 5 * 3}
    assert COLUMNS[:6:2] == (("a2v/R@10", "average"), ("a2v/R@mean", "average"), ("v2a/R@10", "average"))


def test_the_best_is_what_looks_best_among_those_that_learned_task_by_task(rows):
    best = {method: [cell.mark == "best" for cell in cells[:2]] for method, cells in rows.items()}
    assert best == {
        "er": [False, True],
        "stella": [True, True],
        "once": [True, False],
        "multi_task": [False, False],
    }
    assert list(rows)[-1] == "multi_task", "the upper bound comes last"
    rank = COLUMNS.index(("a2v/median_rank", "average"))
    assert [method for method, cells in rows.items() if cells[rank].mark == "best"] == ["er"], "the lower, the better"


def test_a_method_at_chance_is_never_the_best():
    rows = compare({"still": [found(2.5, 0.0), found(2.4, 0.0)], "er": [found(12.0, 4.0)]})
    assert [str(cell) for cell in rows["still"][:2]] == ["2.5 ± 0.1 (chance)", "0.0 ± 0.0"]
    assert [cell.mark for cell in rows["er"][:2]] == ["best", "best"]
    (line,) = [line for line in comparison_latex(rows).splitlines() if line.startswith("still")][:1]
    assert r"2.5 $\pm$ 0.1$^\dagger$" in line
    assert r"\multicolumn{8}{l}{$^\dagger$ not above chance} \\" in comparison_latex(rows)


def test_the_table(rows):
    text = shown(comparison_table("of it", rows))
    stella, _ = lines_of(text, "stella")
    assert stella.count(BOLD) == 5 and stella.count("22.0 ± 2.0") == 5 and stella.count("5.0 ± 0.1") == 1
    once, _ = lines_of(text, "once")
    assert once.count(BOLD) == 5 and "22.0" in once and "±" not in once
    bound, _ = lines_of(text, "multi_task")
    assert BOLD not in bound and bound.count(" - ") == 2 and bound.count("51.0 ± 1.4") == 5
    assert [line.split()[1:] for line in lines_of(text, "chance")] == [
        ["0.2", "1.2", "2.5", "1.3", "200.5", "-", "1.3"]
    ] * 2
    assert all(f"{direction}; gallery 400" in text for direction in (A2V, V2A)) and "of it" in text


def test_csv_has_every_number_in_full(rows):
    table = list(csv.DictReader(io.StringIO(comparison_csv(rows))))
    assert [line["method"] for line in table] == list(rows)
    assert len(table[0]) == 1 + 2 * len(COLUMNS) + len(ALL) + 1
    once = next(line for line in table if line["method"] == "once")
    assert once["a2v/R@10 average mean"] == "21.96" and once["a2v/R@10 average deviation"] == ""
    assert float(table[0]["v2a/R@mean forgetting deviation"]) == pytest.approx(1)
    assert (once["gallery"], once["v2a/R@1 chance"], once["v2a/R@1 learning_accuracy mean"]) == ("400", "0.25", "30.0")


def test_latex_and_markdown(rows):
    lines = comparison_latex(rows).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrr}" and lines[-1] == r"\end{tabular}"
    assert r"\multicolumn{8}{l}{\emph{audio $\to$ video (a2v); gallery 400}} \\" in lines
    recalls, rest = [r"\textbf{22.0 $\pm$ 2.0}"] * 4, [r"22.0 $\pm$ 2.0", r"\textbf{5.0 $\pm$ 0.1}", "-"]
    assert lines.count(rf"stella & {' & '.join(recalls + rest)} \\") == 2
    assert lines.count(r"chance & 0.2 & 1.2 & 2.5 & 1.3 & 200.5 & - & 1.3 \\") == 2
    bound = [r"51.0 $\pm$ 1.4"] * 5
    assert rf"multi\_task & {' & '.join(bound)} & - & - \\" in lines
    assert {line.count("&") for line in lines if line.endswith(r"\\") and "multicolumn" not in line} == {7}
    lines = comparison_markdown(rows).splitlines()
    assert lines.count("| chance | 0.2 | 1.2 | 2.5 | 1.3 | 200.5 | - | 1.3 |") == 2
    assert sum(line.startswith("| stella | **22.0 ± 2.0** | ") for line in lines) == 2
    assert {line.count("|") for line in lines} == {9}


def test_almost_nothing_is_not_less_than_nothing():
    rows = compare({"a": [found(90.0, -0.04), found(90.0, -0.02)]})
    assert str(rows["a"][1]) == "0.0 ± 0.0"


def test_galleries_that_differ_are_told():
    rows = compare({"a": [found(90.0, 0.0), found(90.0, 0.0, gallery=398)]})
    assert "gallery 398-400" in comparison_markdown(rows)
