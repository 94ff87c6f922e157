"""The run files that come with avcl are found by name, and copied to be edited."""

from pathlib import Path

import pytest

from avcl.config.bundled import bundled_files, copy_file, find_file
from avcl.config.files import read_config
from avcl.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_says_first_what_it_is_for():
    assert {"run", "videos", "continual_vs", "continual_as"} <= set(bundled_files())
    for path in bundled_files().values():
        assert path.read_text().startswith("# ")
        assert read_config(path)["strategy"]


def test_a_file_comes_before_what_is_bundled(here):
    assert find_file("run") == bundled_files()["run"]
    (here / "run").mkdir()
    assert find_file("run") == bundled_files()["run"]
    (here / "run.yaml").write_text("seed: 1\n")
    assert find_file("run") == find_file("run.yaml") == Path("run.yaml")
    assert find_file("continual-vs") == find_file("continual_vs") == bundled_files()["continual_vs"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("rum", "rum: no such file, nor a bundled run file; did you mean 'run'?"),
        ("continual-vs.yaml", "continual-vs.yaml: no such file, nor a bundled run file; did you mean 'continual_vs'?"),
        ("", ": no such file, nor a bundled run file; allowed: continual_as, continual_as_shuffled, "),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, line):
    with pytest.raises(UserError) as caught:
        find_file(name)
    assert str(caught.value).startswith(line)


def test_a_copy_is_whole_and_overwrites_nothing(here):
    copied = copy_file("stella-plus-plus", Path("mine.yaml"))
    for name, out, line in [
        ("videos", copied, "mine.yaml: exists already; give another file with --out"),
        ("vidoes", Path("new.yaml"), "unknown run file 'vidoes'; did you mean 'videos'?"),
    ]:
        with pytest.raises(UserError) as caught:
            copy_file(name, out)
        assert str(caught.value) == line
    assert copied.read_bytes() == bundled_files()["stella_plus_plus"].read_bytes()
    assert read_config(copied) == read_config(bundled_files()["stella_plus_plus"])
    assert list(here.iterdir()) == [here / "mine.yaml"]
