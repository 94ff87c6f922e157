"""Tables of many runs, from results made by hand."""

import csv
import io

import pytest
from rich.console import Console

from avcl.report.tables import COMPARED, Cell, compare, comparison_csv, comparison_latex, comparison_table

BOLD = "\x1b[1m"


def found(average, forgetting, joint=False):
    """Results whose every measure ends with these two; what came before the last task must not count."""
    measure = {"average": [99.0, average], "forgetting": [None, forgetting]}
    more = {"after": ["all tasks"]} if joint else {}
    return {"metrics": {"retrieval": {"measures": dict.fromkeys(COMPARED, measure | more)}}}


@pytest.fixture
def rows():
    return compare(
        {
            "multi_task": [found(50.0, None, joint=True), found(52.0, None, joint=True)],
            "er": [found(10.0, 4.0), found(14.0, 5.0), found(12.0, 6.0)],
            "stella": [found(20.0, 5.04), found(22.0, 4.94), found(24.0, 5.0)],
            "once": [found(21.96, 7.5)],
        }
    )


def test_mean_and_standard_deviation_by_hand(rows):
    average, forgetting = rows["er"][:2]
    assert average[:2] == pytest.approx((12, 2)), "of a sample: divided by n - 1"
    assert forgetting[:2] == pytest.approx((5, 1))
    assert rows["once"][0][:2] == (21.96, None), "one run has no deviation"
    assert rows["multi_task"][0][:2] == pytest.approx((51, 2**0.5))
    assert rows["multi_task"][1] == Cell(None, None)
    assert all(len(cells) == 8 for cells in rows.values())


def test_the_best_is_what_looks_best_among_those_that_learned_task_by_task(rows):
    best = {method: [cell.best for cell in cells[:2]] for method, cells in rows.items()}
    assert best == {
        "er": [False, True],
        "stella": [True, True],
        "once": [True, False],
        "multi_task": [False, False],
    }
    assert list(rows)[-1] == "multi_task", "the upper bound comes last"


def test_the_table(rows):
    told = io.StringIO()
    Console(file=told, force_terminal=True, width=300, color_system="standard").print(comparison_table("of it", rows))
    text = told.getvalue()
    (stella,) = (line for line in text.splitlines() if line.strip().startswith("stella"))
    assert stella.count(BOLD) == 8 and stella.count("22.0 ± 2.0") == stella.count("5.0 ± 0.1") == 4
    (once,) = (line for line in text.splitlines() if line.strip().startswith("once"))
    assert once.count(BOLD) == 4 and "22.0" in once and "±" not in once
    (bound,) = (line for line in text.splitlines() if line.strip().startswith("multi_task"))
    assert BOLD not in bound and bound.count(" - ") == 4 and bound.count("51.0 ± 1.4") == 4
    assert "v2a/R@mean" in text and "of it" in text


def test_csv_has_every_number_in_full(rows):
    table = list(csv.DictReader(io.StringIO(comparison_csv(rows))))
    assert [line["method"] for line in table] == list(rows)
    assert len(table[0]) == 1 + 4 * 2 * 2
    once = next(line for line in table if line["method"] == "once")
    assert once["a2v/R@10 average mean"] == "21.96" and once["a2v/R@10 average deviation"] == ""
    assert float(table[0]["v2a/R@mean forgetting deviation"]) == pytest.approx(1)


def test_latex(rows):
    lines = comparison_latex(rows).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrrrrr}" and lines[-1] == r"\end{tabular}"
    pair = r"\textbf{22.0 $\pm$ 2.0} & \textbf{5.0 $\pm$ 0.1}"
    assert rf"stella & {' & '.join([pair] * 4)} \\" in lines
    bound = r"51.0 $\pm$ 1.4 & -"
    assert rf"multi\_task & {' & '.join([bound] * 4)} \\" in lines
    columns = {line.count("&") for line in lines if line.endswith(r"\\") and "multicolumn" not in line}
    assert columns == {8}


def test_almost_nothing_is_not_less_than_nothing():
    rows = compare({"a": [found(0.0, -0.04), found(0.0, -0.02)]})
    assert str(rows["a"][1]) == "0.0 ± 0.0"
