"""`avcl results`, `avcl plot`, `avcl report` as they are typed."""

import csv
import io

import pytest
from helpers.finished import four_methods, learned, write_run
from typer.testing import CliRunner

from avcl.cli.main import app


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return str(four_methods(tmp_path_factory.mktemp("runs")))


def avcl(*words):
    return CliRunner().invoke(app, list(words))


def test_results_is_a_table_with_what_was_equal(runs):
    done = avcl("results", runs, "--against", "er")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "synthetic: 10 runs of 5 methods"
    assert "optimizer steps: 288, the same for all" in lines
    assert sum(line.split()[:1] == ["finetune"] for line in lines) == 1 + 2 + 3, "once in short, each way, tested"
    assert sum(line.split()[:1] == ["chance"] for line in lines) == 3


@pytest.mark.parametrize(
    ("option", "name", "begins"),
    [("--csv", "a.csv", "stream,method,"), ("--latex", "a.tex", "% synthetic"), ("--markdown", "a.md", "## synthetic")],
)
def test_forms_are_printed_or_written(runs, tmp_path, option, name, begins):
    printed = avcl("results", runs, option)
    assert printed.exit_code == 0 and printed.output.startswith(begins)
    by_option = avcl("results", runs, option, "--out", str(tmp_path / "any.txt"))
    by_name = avcl("results", runs, "--out", str(tmp_path / name))
    assert by_option.exit_code == by_name.exit_code == 0 and f"{name} is written" in by_name.output
    assert (tmp_path / "any.txt").read_bytes() == (tmp_path / name).read_bytes()
    assert (tmp_path / name).read_text().rstrip("\n") == printed.output.rstrip("\n")


def test_several_streams_are_one_csv(tmp_path):
    write_run(tmp_path / "a", learned(40, 20))
    write_run(tmp_path / "b", learned(40, 20), scenario={"tasks": 9})
    rows = list(csv.DictReader(io.StringIO(avcl("results", str(tmp_path), "--csv").output)))
    assert {row["stream"] for row in rows} == {"synthetic tasks=3", "synthetic tasks=9"}
    done = avcl("plot", str(tmp_path), "--out", str(tmp_path / "f.png"))
    assert done.exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["f-1.png", "f-2.png"]


def test_plot_and_report_write_files(runs, tmp_path):
    for words in (["--kind", "matrix"], ["--against", "keep_video"], ["--measure", "v2a/R@1"]):
        path = tmp_path / f"{len(words[1])}.svg"
        done = avcl("plot", runs, *words, "--out", str(path))
        assert done.output == f"{path} is written: synthetic\n"
        assert path.read_text().endswith("</svg>\n")
    done = avcl("report", runs, "--out", str(tmp_path / "r.html"), "--title", "Mine & yours")
    assert done.output == f"{tmp_path / 'r.html'} is written: 10 runs\n"
    assert "<title>Mine &amp; yours</title>" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["results", "nowhere"], "nowhere: no such folder; give run folders, folders of run folders or a pattern"),
        (["results", "RUNS", "--csv", "--latex"], "--csv, --latex: one form at a time"),
        (["results", "RUNS", "--out", "a.txt"], "--out a.txt: must end in .csv, .tex, .md, or come with --csv,"),
        (["results", "RUNS", "--against", "errr"], "--against: no runs of 'errr'; did you mean 'er'?"),
        (["plot", "RUNS", "--kind", "matrx"], "--kind matrx: unknown kind; did you mean 'matrix'?"),
        (["plot", "RUNS", "--out", "a.gif"], "--out a.gif: must end in .png, .svg, .pdf"),
        (["plot", "RUNS", "--against", "alpha"], "--against alpha: does not vary over these runs"),
        (["report", "RUNS/*.json"], "*.json: no such folder"),
    ],
)
def test_a_mistake_is_one_line(runs, tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    done = avcl(*[word.replace("RUNS", runs) for word in words])
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith("avcl: ") and told in line
    assert list(tmp_path.iterdir()) == []
