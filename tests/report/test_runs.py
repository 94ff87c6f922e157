"""Run folders found, read, told apart by stream, method and settings, and what their methods were given."""

import json
import logging

import pytest
from helpers.finished import ER, STELLA, four_methods, learned, write_run

from avcl.errors import UserError
from avcl.report.budget import budget_lines
from avcl.report.runs import find_runs, streams_of, value_of


def write(folder, kept=20, **more):
    return write_run(folder, learned(40, kept), **more)


def methods(*places):
    (stream,) = streams_of(find_runs(places))
    return {method: [run.seed for run in runs] for method, runs in stream.methods.items()}


def test_folders_patterns_and_folders_of_folders_are_the_same_runs(tmp_path):
    four_methods(tmp_path / "a" / "deep")
    every = methods(tmp_path)
    assert every == methods(tmp_path / "a" / "deep" / "*") == methods(*sorted((tmp_path / "a" / "deep").iterdir()))
    assert every["stella keep_video=0.5"] == [0, 1] and len(every) == 5
    assert methods(tmp_path, tmp_path / "a" / "deep" / "er-0") == every, "a folder given twice is one run"
    assert list(methods(tmp_path / "a" / "deep" / "er-*")) == ["er"]


def test_settings_that_differ_make_other_methods_named_by_them(tmp_path):
    write(tmp_path / "1", strategy=ER, method="er")
    write(tmp_path / "2", strategy=ER, method="er", learner={"lr": 0.1, "epochs": 5})
    write(tmp_path / "3", strategy={**STELLA, "alpha": 0.0}, method="stella")
    write(tmp_path / "4", strategy=STELLA, method="stella-paper")
    assert list(methods(tmp_path)) == [
        *("er learner.epochs=3 learner.lr=0.001", "er learner.epochs=5 learner.lr=0.1"),
        *("stella", "stella-paper"),
    ]


def test_what_cannot_change_a_result_makes_no_other_method(tmp_path):
    write(tmp_path / "1", seed=0)
    write(tmp_path / "2", seed=1, learner={"workers": 4})
    assert methods(tmp_path) == {"er": [0, 1]}


def test_a_folder_that_does_not_say_its_method_is_called_as_its_command_did(tmp_path):
    for name, command in {
        "1": ["avcl", "train", "run", "--strategy", "stella-paper", "--resume"],
        "2": ["compare.py", "--methods", "stella-plus-paper", "--seeds", "20"],
        "3": ["compare.py", "--seeds", "20", "--methods", "er", "stella"],
    }.items():
        path = write(tmp_path / name, strategy={**STELLA, "alpha": float(name)}) / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"command": command}))
    assert list(methods(tmp_path)) == ["stella-paper", "stella-plus-paper", "stella"]


def test_streams_are_kept_apart_and_named_by_what_differs(tmp_path):
    write(tmp_path / "1")
    write(tmp_path / "2", scenario={"tasks": 4})
    streams = streams_of(find_runs([tmp_path]))
    assert [(stream.name, list(stream.methods)) for stream in streams] == [
        ("synthetic tasks=3", ["er"]),
        ("synthetic tasks=4", ["er"]),
    ]


def test_the_same_run_twice_is_an_error(tmp_path):
    write(tmp_path / "1")
    write(tmp_path / "2")
    with pytest.raises(UserError, match=r"2: the same method, settings and seed as .*1; leave one of them out"):
        methods(tmp_path)


def test_what_has_not_finished_is_named_and_left_out(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    write(tmp_path / "er-0")
    path = write(tmp_path / "er-1", seed=1) / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tasks_done": 2}))
    (write(tmp_path / "er-2", seed=2) / "results.json").unlink()
    assert methods(tmp_path) == {"er": [0]}
    assert [record.getMessage().rpartition("/")[2] for record in caplog.records] == [
        "er-1: not finished (2 of its tasks); left out",
        "er-2: not finished (none of its tasks); left out",
    ]
    with pytest.raises(UserError, match=r"er-1: no finished run; a run folder holds run\.json and results\.json"):
        find_runs([tmp_path / "er-1"])


def test_places_without_runs(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "nowhere", tmp_path / "nowhere-*"):
        with pytest.raises(UserError, match=r"nowhere.*: no such folder; give run folders, folders of run folders or"):
            find_runs([place])
    with pytest.raises(UserError, match=r"empty: no run folder in it; a run folder holds run\.json"):
        find_runs([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("run.json", "{", r"run.json: cannot be read \(.*\); restore it, or leave this folder out"),
        ("run.json", "[]", "run.json: not written by a run of avcl; leave this folder out"),
        ("results.json", "half", r"results.json: cannot be read \(.*\); restore it"),
    ],
)
def test_damaged_files(tmp_path, name, text, told):
    (write(tmp_path / "er-0") / name).write_text(text)
    with pytest.raises(UserError, match=told):
        find_runs([tmp_path])


def test_what_was_given_is_the_same_for_all_or_told_apart(tmp_path):
    """1,024 clips a task, batches of 32: 32 steps an epoch, three epochs, three tasks."""
    write(tmp_path / "er-0")
    write(tmp_path / "er-1", seed=1)
    write_run(tmp_path / "finetune-0", learned(40, 2), {"name": "finetune"})
    write_run(tmp_path / "multitask-0", [[50, 52, 54]], {"name": "multitask"}, joint=True)
    (stream,) = streams_of(find_runs([tmp_path]))
    assert budget_lines(stream) == [
        "seeds: 0, 1 (er); 0 (finetune, multitask)",
        "optimizer steps: 288, the same for all",
        "current clips a step: 32, the same for all",
        "replay buffer: bytes of 128 whole clips (float32) (er); none (finetune, multitask)",
    ]


def test_what_a_sweep_measured_is_told_with_its_runs(tmp_path):
    write(tmp_path / "er-0")
    cost = {"epochs": 3, "clip_passes": 1000, "buffer_clips": 128, "buffer_bytes": 21_000_000}
    plan = {
        "budget": {"kind": "bytes", "methods": {"er": cost}},
        "runs": {"er-0": {"method": "er", "varied": {}, "seed": 0}},
    }
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    (run,) = find_runs([tmp_path])
    assert (value_of(run, "bytes"), value_of(run, "passes"), value_of(run, "learner.lr")) == (21_000_000, 1000, 0.001)
    lines = budget_lines(*streams_of([run]))
    assert "budget of the sweep: equal bytes" in lines and "replay buffer when full, bytes: 21,000,000" in lines
