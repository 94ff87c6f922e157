"""Tables of a made-up measurement: ratios round by round, stages, targets and what stops them, by hand."""

import pytest

from avcl.bench.tables import Target, beside_the_paper, methods_of, sheets, verdicts


def method(seconds, split, work, peaks, **passes):
    return {
        "clips": 4,
        "batch": 8,
        "passes": {"forward": [], "encode": [], "backward": [0]} | passes,
        "multiply_adds": work,
        "not_counted": [],
        "peak_bytes": peaks,
        "replay_bytes": 0,
        "seconds": seconds,
        "split": [split] * len(seconds),
    }


RESULT = {
    "sizes": {
        "tiny": {
            "batch_size": 4,
            "weights_bytes": 2_000_000,
            "matrix_multiply_adds_per_second": [9e9, 10e9, 20e9],
            "methods": {
                "stella": method(
                    [0.5, 1.0, 0.25],
                    {"scoring": 0.2, "forward": 0.1, "backward": 0.2},
                    {"scoring": 1_000_000_000, "forward": 600_000_000, "backward": 900_000_000},
                    {"scoring": 10, "forward": 70},
                    forward=[8],
                    encode=[4],
                ),
                "derpp": method(
                    [0.5, 0.5, 0.5],
                    {"forward": 0.2, "backward": 0.3},
                    {"forward": 1_000_000_000, "backward": 1_000_000_000},
                    {"forward": 100, "backward": 90},
                    forward=[8],
                ),
            },
        }
    }
}


def test_ratios_are_of_the_same_round():
    methods = methods_of(RESULT, "tiny")
    assert list(methods) == ["derpp", "stella"]
    stella, derpp = methods["stella"], methods["derpp"]
    assert stella.speed == [8.0, 4.0, 16.0]
    assert stella.times(derpp) == [1.0, 0.5, 2.0]
    assert stella.share == pytest.approx(2.5e9 / 0.5 / 10e9)
    assert (stella.peak, stella.peak_stage) == (70, "forward")
    assert stella.passes() == "forward 2, encode 1; backward 1"


def test_a_target_names_the_stage_that_stops_it_and_its_floor():
    wanted = [Target("st*", "derpp", 1.2, 0.6), Target("mir", "derpp", 1, 1), Target("stella", "er", 1, 1)]
    (verdict,) = verdicts(methods_of(RESULT, "tiny"), wanted)
    assert (verdict.method, verdict.speed, verdict.memory) == ("stella", 1.0, 0.7)
    assert (verdict.stage, verdict.seconds, verdict.work, verdict.floor) == ("scoring", 0.2, 1_000_000_000, 0.1)
    assert (verdict.bound, verdict.peak_stage) == (2.0 / 2.5, "forward")


def test_the_tables_say_all_of_it():
    pages = {title: sheet.markdown() for title, sheet in sheets(RESULT)}
    first, stages, targets = pages.values()
    title = "tiny: 4 current clips a step, 2 MB of weights; matrix products at 10 G multiply-adds a second"
    assert next(iter(pages)) == title
    assert "| stella | 8 (4 to 16) | 1 (0.5 to 2) | 0 | 0.70 | forward 2, encode 1; backward 1 | 0.625 | 50% |" in first
    assert "| stella | 0 (0%) | 200 (40%) | 0 (0%) | 100 (20%) | 200 (40%) | 0 (0%) | 0 (0%) |" in stages
    row = "| stella | >= 1.12 x derpp, <= 0.6 x its memory | 1.00 x missed | scoring | 1 G, 100 of 200 ms | 0.80 x |"
    assert f"{row} 0.70 x missed | forward |" in targets


def test_the_papers_ratios_stand_beside_ours():
    lines = beside_the_paper(RESULT, "tiny").markdown().splitlines()
    assert lines[2] == "| derpp | 8 (8 to 8) | 1.00 | 1.00 | 1.00 | 1.00 |"
    assert lines[3] == "| stella | 8 (4 to 16) | 1.00 | 0.97 | 0.70 | 0.56 |"
