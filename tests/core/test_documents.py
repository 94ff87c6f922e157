"""What the READMEs and the papers of the house show is what is there."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers.documents import GENERATED, HOME, PICTURE, draw_results, section, stream

FOLDERS = ("", "plugins/", "plugins/*/*/", "scenarios/", "examples/", "avcl/*/")
PAGES = sorted(path for folder in FOLDERS for path in HOME.glob(f"{folder}*.md"))
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())
STALE = "stale; run `python tests/helpers/documents.py`"


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_table_is_current(name: str) -> None:
    path, make = GENERATED[name]
    assert section(name, (HOME / path).read_text())[1] == make(), STALE


def test_the_picture_shows_the_raw_results(tmp_path: Path) -> None:
    draw_results(tmp_path / "new.svg")
    shown, expected = (path.read_text() for path in (HOME / PICTURE, tmp_path / "new.svg"))
    texts, places = r"<text[^>]*>([^<]*)<", r'<path d="([^"]*)" clip-path'
    assert re.findall(texts, shown) == re.findall(texts, expected), STALE
    lines = [
        [float(x) for d in re.findall(places, text) for x in re.findall(r"-?\d+\.\d+", d)] for text in (shown, expected)
    ]
    assert len(lines[0]) > 100 and lines[0] == pytest.approx(lines[1], abs=0.5), STALE


def test_the_raw_results_are_of_seeds_that_chose_nothing() -> None:
    """As many seeds of every method, and of the methods' settings those of the run file."""
    config = yaml.safe_load((HOME / "examples" / "run.yaml").read_text())
    methods = stream().methods
    assert {run.seed for runs in methods.values() for run in runs} == {20, 21, 22, 23, 24}
    assert all(len(runs) == 5 for runs in methods.values())
    for method, runs in methods.items():
        entry = config["methods"].get(method, {})
        for run in runs:
            told = run.manifest["settings"]["strategy"]
            assert told["name"] == entry.get("name", method)
            assert {key: told[key] for key in entry} == entry


@pytest.mark.parametrize(
    ("page", "package", "files"),
    [
        ("plugins", "calm", ["calm.py", "pyproject.toml", "tests/test_calm.py"]),
        (
            "examples",
            "tutorial",
            [
                "pyproject.toml",
                *("npz_clips.py", "patch_mlp.py", "embedding_rank.py", "json_lines.py"),
                "tests/test_tutorial.py",
            ],
        ),
    ],
)
def test_a_tutorial_is_the_package(page: str, package: str, files: list[str]) -> None:
    text = (HOME / page / "README.md").read_text()
    shown = re.findall(r"```(?:python|toml)\n(.*?)```", text, re.DOTALL)
    assert shown == [(HOME / "examples" / package / name).read_text() for name in files]
    assert all(f"`{name}`:" in text for name in files if "/" in name)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(HOME)))
def test_links_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]+)\)", prose):
        place, _, anchor = target.partition("#")
        if place.startswith("http"):
            continue
        page = path.parent / place if place else path
        assert page.exists(), f"{target}: no such file"
        heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]


def test_the_readme_is_short_and_its_markers_exist(request: pytest.FixtureRequest) -> None:
    text = (HOME / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    known = {line.partition(":")[0] for line in request.config.getini("markers")}
    for expression in re.findall(r'-m "?((?:not \w+(?: and )?)+|slow)', text):
        assert set(re.findall(r"\w+", expression)) - {"not", "and"} <= known


def test_license_citation_and_changelog_are_of_this_version() -> None:
    version, citation = PROJECT["project"]["version"], yaml.safe_load((HOME / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], str(citation["version"]), citation["license"]) == ("1.2.0", version, "MIT")
    assert any("2310.08204" in reference["url"] for reference in citation["references"])
    assert f"\n## [{version}]" in (HOME / "CHANGELOG.md").read_text()
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert "the avcl authors" in (HOME / "LICENSE").read_text()
