"""The sentences above a comparison: each says what the numbers say, and no more."""

from helpers.finished import learned, write_run

from avcl.report.documents import compared
from avcl.report.headline import headline, lost_by_task, lost_sheet
from avcl.report.runs import find_runs, streams_of


def of(folder):
    (stream,) = streams_of(find_runs([folder]))
    return stream


def said(folder):
    stream = of(folder)
    return list(headline(stream, compared(stream)))


def write(folder, **methods):
    for name, kept in methods.items():
        for seed, one in enumerate(kept):
            write_run(folder / f"{name}-{seed}", learned(40, one), {"name": name}, seed=seed)
    return folder


def test_who_forgets_least_and_who_has_most_and_where(tmp_path):
    """Kept of 40 points: 30, 33, 32 and 20, 21, 21; differences 10, 12, 11: t = 11 sqrt(3), p = 0.0027."""
    assert said(write(tmp_path, a=[30, 33, 32], b=[20, 21, 21], c=[5, 5, 5])) == [
        "a forgets least: 8.3 ± 1.5 points; next is b with 19.3 ± 0.6 (p = 0.0027 over 3 seeds).",
        "a has the highest average: 34.4 ± 1.0 %, chance 1.0; next is b with 27.1 ± 0.4 (p = 0.0027 over 3 seeds).",
        "Most is lost of birds: from 8.3 points (a) to 35.0 (c).",
    ]


def test_what_seeds_do_not_tell_apart_is_said(tmp_path):
    first, *_ = said(write(tmp_path, a=[30, 20, 25], b=[20, 28, 24]))
    assert first.startswith("a forgets least: 15.0 ± 5.0 points; next is b with 16.0 ± 4.0 (not told apart, p = 0.")


def test_one_seed_is_no_evidence_and_two_are_not_either(tmp_path):
    first, *_ = said(write(tmp_path, a=[30], b=[20]))
    assert first == "a forgets least: 10.0 points; next is b with 20.0; 1 shared seed, so this is no evidence yet."
    first, *_ = said(write(tmp_path / "two", a=[30, 31], b=[20, 21.5]))
    assert first.endswith("; 2 shared seeds, so this is no evidence yet.")


def test_little_learned_is_little_to_forget(tmp_path):
    write(tmp_path, b=[30])
    write_run(tmp_path / "slow", learned(10, 8), {"name": "slow"})
    lines = said(tmp_path)
    assert lines[0].startswith("slow forgets least: 2.0 points")
    assert lines[2] == "But slow also learned least: 10.0 % after each task; little learned is little to forget."


def test_who_is_at_chance_neither_forgets_nor_remembers(tmp_path):
    write(tmp_path, b=[30])
    write_run(tmp_path / "still", [[1.0] * 3] * 3, {"name": "still"})
    lines = said(tmp_path)
    assert lines[0] == "b forgets least: 10.0 points." and lines[-1] == "Not above chance: still."
    for path in tmp_path.glob("b-*/*"):
        path.unlink()
    assert said(tmp_path / "still") == [
        "No method is above chance (1.0 %): nothing was learned that could be forgotten."
    ]


def test_joint_training_is_no_rival(tmp_path):
    write(tmp_path, b=[30])
    write_run(tmp_path / "bound", [[90, 90, 90]], {"name": "bound"}, joint=True)
    assert said(tmp_path)[1] == "b has the highest average: 33.3 %, chance 1.0."


def test_points_lost_by_task(tmp_path):
    """From the best earlier evaluation to the last one, of all tasks but the last."""
    for seed, last in enumerate(([10, 30, 50], [20, 44, 50])):
        write_run(tmp_path / str(seed), [[30, 0, 0], [34, 40, 0], last], seed=seed)
    tasks, found = lost_by_task(of(tmp_path))
    assert (tasks, found) == (["birds", "trains"], {"er": [19, 3]})
    ((_, cells),) = lost_sheet(of(tmp_path)).sections[""]
    assert [(str(cell), cell.mark) for cell in cells] == [("19.0", "best"), ("3.0", "best")]
