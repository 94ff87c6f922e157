"""The page about finished runs: all of it is in one file, and a browser shows it on any screen without a complaint."""

import json
import re
from html.parser import HTMLParser

import pytest
from helpers.chromium import CHROMIUM, PHONE, WIDE, browser
from helpers.finished import STELLA, four_methods, learned, write_run
from PIL import Image

from avcl.report.html import page
from avcl.report.runs import find_runs, streams_of


def made(folder, **more):
    return page(streams_of(find_runs([folder])), "What was kept", **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four methods with two seeds, of which one has pictures, one evaluations, one a selection and one bad clips."""
    folder = four_methods(tmp_path_factory.mktemp("page"))
    chosen = folder / "stella-keep_video=0.5-0"
    (chosen / "pictures").mkdir()
    for number, task in ((1, "birds"), (2, "trains"), (3, "rain")):
        Image.new("RGB", (900, 40 * number), (10 * number, 120, 90)).save(
            chosen / "pictures" / f"after_{number}_{task}.png"
        )
    Image.new("RGB", (90, 20)).save(chosen / "pictures" / "after_2_birds.png")
    for seed, score in enumerate((70.0, 74.0)):
        told = {"classification": {"scores": {"accuracy": score, "top5": None}, "chance": {"accuracy": 6.25}}}
        (folder / f"er-{seed}" / "evaluations.json").write_text(json.dumps(told))
        path = folder / f"stella-keep_video=0.375-{seed}" / "results.json"
        results = json.loads(path.read_text())
        scores = {"video/source_kept": {"average": [0.4, 0.3]}, "video/source_all": {"average": [0.1, 0.12]}}
        scores |= {"video/auc": {"average": [0.9, 0.8 + 0.1 * seed]}, "audio/source_kept": {"average": [None, None]}}
        results["metrics"]["selection"] = {"clips": 8, "scores": scores}
        results["bad_clips"] = {"a <b>.mp4": "no audio stream"} if seed else {}
        path.write_text(json.dumps(results))
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return made(folder, against="er")


class Reader(HTMLParser):
    """Texts, tables as lists of rows, addresses, and whether every tag that is opened is closed."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.texts, self.tables, self.sources, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def table(self, *head):
        return next(table for table in self.tables if table[0][: len(head)] == list(head))


def test_the_answer_comes_first(text):
    texts = list(filter(None, Reader(text).texts))
    start = texts.index("stella keep_video=0.5 forgets least: 12.0 ± 2.8 points")
    assert start < texts.index("What was given") < texts.index("Task matrices")
    assert any(
        line.startswith("Of what stella keep_video=0.375 keeps, the source is 30 % of the video") for line in texts
    )
    assert texts[0] == texts[[*texts].index("What was kept")] == "What was kept"


def test_tables_say_what_the_runs_found(text):
    page = Reader(text)
    rows = {row[0]: row[1:] for row in page.table("method", "A", "F", "LA")}
    assert rows["er"][:4] == ["29.3 ± 0.9", "19.0 ± 1.4", "42.0 ± 0.0", "2"]
    assert rows["chance"][0] == "1.0"
    assert page.table("method", "birds", "trains")[1] == ["er", "19.0", "19.0"]
    assert page.table("method", "accuracy", "top5")[1:] == [["er", "72.0 ± 2.8", "-"], ["chance", "6.2", "-"]]
    chosen = page.table("method", "video: AUC")
    assert chosen[1] == ["stella keep_video=0.375", "85.0 ± 7.1", "-", "30.0 ± 0.0", "12.0 ± 0.0", *["-"] * 4]
    settings = {row[0]: row[1:] for row in page.table("setting")}
    assert settings["strategy.keep_video"] == ["-", "-", "-", "0.375", "0.5"]
    assert "learner.lr" not in settings and "learner.lr" in text
    runs = page.table("run folder")
    assert len(runs) == 11 and sum(int(row[-1]) for row in runs[1:]) == 1
    assert "a &lt;b&gt;.mp4: no audio stream" in text, "file names are no markup"
    assert "torch 2.14.1" in text and "commit 0123abc" in text
    assert "gallery 512" in text and "difference from er" in text.lower()


def test_pictures_are_the_last_of_each_task(text):
    captions = re.findall(r"<figcaption>(stella[^<]*)<", text)
    assert captions == [
        f"stella keep_video=0.5, seed 0: selection after {task}" for task in ("birds", "trains", "rain")
    ]


def test_nothing_is_outside_of_the_page(text):
    sources = Reader(text).sources
    assert len(sources) == 1 + 3 + 3 and all(source.startswith("data:") for source in sources)
    assert not re.search(r"url\(|@import|<script", text)


def test_the_same_runs_make_the_same_page(folder, text):
    assert made(folder, against="er") == text


def test_one_run_and_several_streams_have_pages_too(tmp_path):
    write_run(tmp_path / "a", learned(40, 20), {**STELLA, "keep_video": 0.5})
    assert "None: the methods have the same settings." in made(tmp_path)
    write_run(tmp_path / "b", learned(40, 20), scenario={"tasks": 9})
    assert re.findall("<h2>(.*?)</h2>", made(tmp_path)) == [
        *("synthetic tasks=3: 1 run of 1 method", "synthetic tasks=9: 1 run of 1 method")
    ]
    write_run(tmp_path / "bound" / "c", [[50, 50, 50]], {"name": "multitask"}, joint=True)
    assert "50.0" in made(tmp_path / "bound"), "nothing is forgotten where all tasks came at once"


@pytest.fixture(scope="module")
def shown(text, tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    path = tmp_path_factory.mktemp("shown") / "report.html"
    path.write_text(text)
    with browser() as page:
        yield page, path


@pytest.mark.parametrize("width", [PHONE, WIDE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_complaint(shown, width, scheme):
    page, path = shown
    page.open(path, width, scheme)
    assert page.requests() == [path.as_uri()], "nothing but the page itself is asked for"
    assert page.complaints() == []
    assert page.value("document.documentElement.scrollWidth") == width, "no page wider than the screen"
    assert page.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    dark = page.value("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_tables_that_are_wider_than_a_phone_scroll_in_their_own_box(shown):
    page, path = shown
    page.open(path, PHONE)
    wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth).length"
    assert page.value(wide) >= 3
    assert page.value("[...document.querySelectorAll('table')].every(table => table.closest('.scroll'))")


def test_printed_nothing_hides(shown):
    page, path = shown
    page.open(path, WIDE)
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert page.value("getComputedStyle(document.querySelector('.scroll')).overflowX") == "visible"
    page.ask("Emulation.setEmulatedMedia", media="")


def test_the_browser_would_complain(shown, tmp_path):
    """The checks above can fail: a page that asks for something, throws, and is too wide."""
    page, _ = shown
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='there.png'><div style='width:2000px'>x</div><script>nothing()</script>")
    page.open(bad, PHONE)
    assert len(page.requests()) == 2 and page.complaints()
    assert page.value("document.documentElement.scrollWidth") > PHONE
