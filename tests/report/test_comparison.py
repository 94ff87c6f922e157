"""Many runs side by side, from results made by hand: statistics by hand, marks, tables, and what programs read."""

import csv
import io
from math import atan, pi, sqrt

import pytest
from helpers.finished import four_methods, learned, results
from rich.console import Console

from avcl.errors import UserError
from avcl.report.comparison import COLUMNS, HEAD, compare, interval, measure_of, paired
from avcl.report.documents import compared, csv_of, latex, markdown
from avcl.report.runs import find_runs, streams_of
from avcl.report.sheet import Cell

BOLD, UNDERLINED, DIM = "\x1b[1m", "\x1b[4m", "\x1b[2m"
A, F, LA = (("both/R@mean", name) for name in ("average", "forgetting", "learning_accuracy"))


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    (stream,) = streams_of(find_runs([four_methods(tmp_path_factory.mktemp("four"))]))
    return stream


def runs(*kept, **more):
    return [results(learned(40, one), seed=seed, **more) for seed, one in enumerate(kept)]


def shown(table):
    told = io.StringIO()
    Console(file=told, force_terminal=True, width=400, color_system="standard").print(table)
    return told.getvalue()


# ---- statistics ----
def test_the_interval_is_students():
    """Of 10, 14, 12: mean 12, deviation 2, and t of two degrees of freedom at 97.5 % is 4.302653."""
    low, high = interval([10.0, 14.0, 12.0])
    assert (low, high) == pytest.approx((12 - 4.302653 * 2 / sqrt(3), 12 + 4.302653 * 2 / sqrt(3)))
    assert interval([10.0]) is None and interval([]) is None


def test_the_paired_test_by_hand():
    """Differences 1, 2, 3: t = 2 sqrt(3), and of two degrees of freedom p = 1 - t / sqrt(2 + t^2)."""
    values, reference = {0: 11.0, 1: 22.0, 2: 33.0, 7: 99.0}, {2: 30.0, 1: 20.0, 0: 10.0, 9: 1.0}
    found = paired(values, reference)
    t = 2 * sqrt(3)
    assert (found.mean, found.pairs) == (2, 3), "over the seeds that both have"
    assert found.p == pytest.approx(1 - t / sqrt(2 + t * t))
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / sqrt(3), 2 + 4.302653 / sqrt(3)))
    opposite = paired(reference, values)
    assert (opposite.mean, opposite.p) == pytest.approx((-2, found.p))


def test_what_cannot_be_tested_is_not():
    assert paired({0: 1.0}, {1: 1.0}) is None, "no seed in common"
    assert paired({0: 3.0}, {0: 1.0}) == (2.0, None, None, None, 1), "one pair"
    assert paired({0: 3.0, 1: 4.0}, {0: 1.0, 1: 2.0}) == (2.0, None, None, None, 2), "no spread at all"


def test_both_directions_are_their_mean():
    one = runs(20, v2a=4.0)[0]
    both, a2v = (measure_of(one, f"{way}/R@5") for way in ("both", "a2v"))
    assert both["matrix"][2] == [22.0, 22.0, 42.0]
    assert both["average"][-1] == pytest.approx(a2v["average"][-1] + 2)
    assert both["forgetting"] == [None, 20.0, 20.0], "the first evaluation has none"


# ---- a comparison ----
def test_mean_deviation_and_differences(stream):
    found = compared(stream, "er")
    assert list(found.rows) == ["er", "finetune", "stella keep_video=0.375", "stella keep_video=0.5", "multitask"]
    average, forgetting = (found.rows["er"][column] for column in (A, F))
    assert average[:2] == pytest.approx((2 + (80 / 3 + 28) / 2, (4 / 3) / sqrt(2))), "of a sample: divided by n - 1"
    assert forgetting[:2] == pytest.approx((19, sqrt(2)))
    assert found.rows["multitask"][A].mean == 52 and found.rows["multitask"][F] == Cell()
    one = found.differences["stella keep_video=0.5"][A]
    assert one.mean == pytest.approx((8 + 28 / 3) / 2)
    assert one.p == pytest.approx(1 - 2 * atan(13) / pi), "t = 13 of one degree of freedom"
    assert "er" not in found.differences


def test_best_and_second_are_what_looks_so_among_those_that_learned_task_by_task(stream):
    rows = compared(stream).rows
    marks = {method: [rows[method][column].mark for column in (A, F)] for method in rows}
    assert marks == {
        "er": ["", ""],
        "finetune": ["", ""],
        "stella keep_video=0.375": ["second", "second"],
        "stella keep_video=0.5": ["best", "best"],
        "multitask": ["", ""],
    }
    ties = compare({"a": runs(20.0, 20.04), "b": runs(20.0), "c": runs(10.0)}).rows
    assert [ties[method][A].mark for method in "abc"] == ["best", "best", "second"]


def test_who_is_at_chance_is_neither():
    still = [results([[1.0] * 3] * 3, seed=seed) for seed in (0, 1)]
    found = compare({"still": still, "er": runs(20, 22)})
    assert str(found.rows["still"][A]) == "1.0 ± 0.0 (chance)"
    assert [found.rows[method][F].mark for method in ("still", "er")] == ["", "best"], "nothing learned, nothing kept"
    assert found.chance["both/R@mean"] == pytest.approx(16 / 3 / 512 * 100)


def test_median_rank_is_better_where_it_is_lower():
    low, high = runs(20, gallery=400)[0], runs(20, gallery=512)[0]
    for one, value in ((low, 12.0), (high, 20.0)):
        one["metrics"]["retrieval"]["measures"]["a2v/median_rank"] |= {"average": [value] * 3}
    rows = compare({"low": [low], "high": [high]}).rows
    assert [rows[method]["a2v/median_rank", "average"].mark for method in rows] == ["best", "second"]


def test_against_an_unknown_method():
    with pytest.raises(UserError, match=r"--against: no runs of 'err'; did you mean 'er'\?"):
        compare({"er": runs(20), "stella": runs(30)}, against="err")


def test_results_of_another_metric_or_of_an_older_version():
    measure = {"matrix": [[50.0]], "average": [50.0], "forgetting": [None]}
    bare = {"seed": 0, "metrics": {"retrieval": {"measures": {"a2v/R@10": measure}}}}
    found = compare({"er": [bare], "none": [{"seed": 0, "metrics": {}}]})
    assert found.rows["er"]["a2v/R@10", "average"] == Cell(50.0, None, "best")
    assert found.rows["none"]["a2v/R@10", "average"] == Cell()
    assert found.chance["a2v/R@10"] is None and found.gallery == "gallery unknown"


def test_almost_nothing_is_not_less_than_nothing():
    assert str(Cell(-0.04, 0.02)) == "0.0 ± 0.0"


def test_galleries_that_differ_are_told():
    assert compare({"a": runs(20, gallery=400), "b": runs(20, gallery=512)}).gallery == "gallery 400-512"


# ---- forms ----
def test_the_tables(stream):
    (_, short), (title, table), (against, tests) = compared(stream, "er").sheets()
    text = shown(short.table("t"))
    (line,) = [line for line in text.splitlines() if line.startswith(" stella keep_video=0.5")]
    assert f"{BOLD}38.0 ± 1.9" in line and " 21.1 to 54.9" in line
    assert UNDERLINED in text and DIM not in text
    assert HEAD == ["R@1 A", "R@1 F", "R@5 A", "R@5 F", "R@10 A", "R@10 F", "mean A", "mean F", "mean LA"]
    sections = list(table.sections)
    assert sections == [f"{way}; gallery 512" for way in ("audio -> video (a2v)", "video -> audio (v2a)")]
    chance = table.sections[sections[0]][-1]
    assert [str(cell) for cell in chance[1]] == ["0.2", "-", "1.0", "-", "2.0", "-", "1.0", "-", "1.0"]
    assert "percent" in title and "difference from er" in against and "not corrected" in against
    first = dict(tests.sections["both directions (mean)"])
    assert [str(cell) for cell in first["stella keep_video=0.5"][:3]] == ["2", "+8.7 (0.2 to 17.1)", "0.049"]
    assert first["multitask"][3].text == "-"


def test_markdown_and_latex(stream):
    page = markdown([stream], "er")
    assert page.startswith("## synthetic: 10 runs of 5 methods\n\n- seeds: 0, 1, the same for all\n")
    assert "| **38.0 ± 1.9** |" in page and "<u>" in page
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables) and len(tables) == 3
    text = latex([stream], "er")
    assert r"\textbf{38.0 $\pm$ 1.9}" in text and r"\underline{" in text and "% - " not in text
    assert r"stella keep\_video=0.5" in text and text.count(r"\end{tabular}") == 3
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in rows} == {7, 9}
    assert all(line.startswith("%") for line in text.partition(r"\begin")[0].splitlines() if line)


def test_csv_has_every_number_in_full(stream):
    rows = list(csv.DictReader(io.StringIO(csv_of([stream], "er"))))
    assert len(rows) == 5 * len(COLUMNS) == 5 * 3 * 5 * 3
    keys = ("method", "direction", "measure", "summary")
    by = {tuple(row[key] for key in keys): row for row in rows}
    one = by["stella keep_video=0.5", "both", "R@mean", "average"]
    assert float(one["mean"]) == pytest.approx(38) and float(one["deviation"]) == pytest.approx(8 / 3 / sqrt(2))
    assert (one["stream"], one["seeds"], one["gallery"], one["against"], one["pairs"]) == (
        *("synthetic", "0 1", "512"),
        *("er", "2"),
    )
    assert float(one["p"]) == pytest.approx(1 - 2 * atan(13) / pi)
    assert float(one["chance"]) == pytest.approx(16 / 3 / 512 * 100)
    bound = by["multitask", "a2v", "R@1", "forgetting"]
    assert (bound["mean"], bound["seeds"], bound["chance"], bound["difference"]) == ("", "", "", "")
    assert "p" not in csv_of([stream]).partition("\n")[0].split(",")
