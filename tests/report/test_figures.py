"""Figures of finished runs: what is drawn are the numbers, and the files are what their names say."""

import re

import numpy as np
import pytest
from helpers.finished import ER, STELLA, four_methods, learned, write_run

from avcl.errors import UserError
from avcl.report.drawing import COLOURS, save
from avcl.report.figures import draw, tradeoff
from avcl.report.runs import find_runs, streams_of


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    (stream,) = streams_of(find_runs([four_methods(tmp_path_factory.mktemp("four"))]))
    return stream


def of(folder):
    (stream,) = streams_of(find_runs([folder]))
    return stream


def texts(axis):
    return [text.get_text() for text in axis.texts]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_matrices_are_means_over_seeds(stream):
    figure = draw(stream, "matrix", "a2v/R@mean")
    axes = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.get_title(loc="left")}
    assert list(axes) == ["er", "finetune", "multitask", "stella keep_video=0.375", "stella keep_video=0.5"]
    er = [float(text) for text in texts(axes["er"])]
    assert er == [40, 0, 0, 21, 40, 0, 21, 21, 40]
    assert np.allclose(axes["er"].images[0].get_array(), np.reshape(er, (3, 3)))
    assert texts(axes["multitask"]) == ["50.0", "52.0", "54.0"]
    assert [tick.get_text() for tick in axes["multitask"].get_yticklabels()] == ["all tasks"]
    assert "chance 1.0" in figure.axes[-1].get_ylabel()


def test_curves_are_means_with_a_band(stream):
    average, forgetting = draw(stream, "curves", "a2v/R@mean").axes
    er = average.lines[0]
    assert er.get_ydata() == pytest.approx([40, 30.5, 82 / 3])
    assert average.lines[2].get_xdata() == [2], "joint training is a point behind the last task"
    low, high = (average.collections[0].get_paths()[0].vertices[:, 1].copy() for _ in range(2))
    assert (low.min(), high.max()) == pytest.approx((82 / 3 - (4 / 3) / 2**0.5, 40))
    assert forgetting.lines[0].get_ydata() == pytest.approx([19, 19])
    assert "chance 1.0" in texts(average) and not texts(forgetting)
    assert labels(average.figure) == list(stream.methods)


def test_curves_over_steps_where_runs_were_evaluated_within_tasks(tmp_path):
    write_run(tmp_path / "er-0", learned(40, 20), steps=(48, 96, 144, 192, 240, 288))
    figure = draw(of(tmp_path), "curves", "a2v/R@mean")
    (_, _, steps) = figure.axes
    assert steps.lines[0].get_xdata().tolist() == [48, 96, 144, 192, 240, 288]
    assert steps.lines[0].get_ydata() == pytest.approx([40, 40, 30, 30, 80 / 3, 80 / 3])
    assert [line.get_xdata()[0] for line in steps.lines[1:3]] == [96, 192], "tasks begin there"
    assert steps.get_xlabel() == "optimizer steps"


@pytest.mark.parametrize("key", ["strategy.keep_video", "keep_video"])
def test_a_score_against_a_setting(stream, key):
    figure = draw(stream, "setting", "a2v/R@mean", key)
    average, forgetting = figure.axes
    line = next(line for line in average.lines if len(line.get_xdata()) == 2 and line.get_marker() in "osD^v")
    assert line.get_xdata().tolist() == [0.375, 0.5]
    assert line.get_ydata() == pytest.approx([(94 + 102) / 6, (104 + 112) / 6])
    level = next(line for line in forgetting.lines if line.get_linestyle() == "--")
    assert set(level.get_ydata()) == {19.0}, "ER does not have it"
    assert labels(figure) == ["er (without it)", "finetune (without it)", "multitask (without it)", "stella"]
    assert average.get_xlabel() == "keep_video"


def test_settings_that_are_no_numbers_are_places(tmp_path):
    for place, by in enumerate(("both", "importance")):
        write_run(tmp_path / by, learned(40, 20 + place), {**STELLA, "select_by": by})
    average = draw(of(tmp_path), "setting", against="select_by").axes[0]
    assert [tick.get_text() for tick in average.get_xticklabels()] == ["both", "importance"]


def test_bytes_of_memory_on_a_logarithmic_axis(tmp_path):
    for capacity in (8, 64, 512):
        memory = {**ER["memory"], "capacity": capacity}
        write_run(tmp_path / str(capacity), learned(40, capacity / 20), {**ER, "memory": memory})
    average = draw(of(tmp_path), "setting", against="memory.capacity").axes[0]
    assert average.get_xscale() == "log"
    assert [tick.get_text() for tick in average.get_xticklabels()] == ["8", "64", "512"]


def test_average_against_forgetting(stream):
    (axis,) = tradeoff(stream, "a2v/R@mean").axes
    assert sorted(texts(axis)) == ["er", "finetune", "stella keep_video=0.375", "stella keep_video=0.5"]
    points = {text.get_text(): text.xy for text in axis.texts}
    assert points["er"] == pytest.approx((19, 82 / 3))


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_files_are_what_their_names_say_and_the_same_every_time(stream, tmp_path, suffix, head):
    for name in "ab":
        save(draw(stream, "matrix"), tmp_path / f"{name}{suffix}")
    one, other = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert one.startswith(head) and one == other


def test_colours_differ_in_lightness_or_hue_for_everyone():
    """Okabe and Ito's eight, of which yellow is left out; none twice."""
    assert len(set(COLOURS)) == len(COLOURS) and all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in COLOURS)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("setting", "both/R@mean", "keep_vidio"), r"--against keep_vidio: does not vary .*mean 'strategy.keep_video'"),
        (("setting", "both/R@mean", "learner.lr"), r"--against learner.lr: does not vary over these runs"),
        (("setting", "both/R@mean", ""), r"--against: required by --kind setting; what varies here: strategy.keep_vid"),
        (("curves", "a2v/R@11", ""), r"--measure a2v/R@11: unknown; did you mean 'a2v/R@1'"),
    ],
)
def test_what_cannot_be_drawn(stream, given, told):
    with pytest.raises(UserError, match=told):
        draw(stream, *given)
