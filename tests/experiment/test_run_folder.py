"""What `avcl train` writes into, what it refuses, and what a resumed run may change, as a user types it."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.experiment.run_folder import RunFolder

SMALL = """
scenario: {name: synthetic, tasks: 2, classes: 2, train_clips: 2, eval_clips: 2, pretraining: 0}
backbone: {name: cav-mae, size: tiny, dim: 24, heads: 2, depth: 1, decoder_dim: 16, decoder_heads: 2}
weights: null
strategy: {name: er, memory: {capacity: 8}}
learner: {epochs: 1, batch_size: 4, lr: 0.001}
device: cpu
"""


def train(folder, *words):
    """`avcl train` into a folder: exit code and standard error."""
    file = Path(folder).resolve().parent / "small.yaml"
    file.write_text(SMALL)
    result = CliRunner().invoke(app, ["train", str(file), "--out", str(folder), *words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.stderr


def content(folder):
    """Every file and what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and what it said on standard error."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    code, told = train(folder)
    assert code == 0, told
    return folder, told


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the finished run."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def test_own_videos_at_chance_do_not_look_like_100_percent(trained):
    """A gallery of 8 clips: R@10 is 100 % whatever the model does."""
    folder, told = trained
    lines = [line for line in told.splitlines() if line.startswith("after ")]
    assert [line[: line.index(" R@1 ")] for line in lines] == [
        f"after family_{task}: {direction}:"
        for task in (1, 2)
        for direction in ("audio -> video (a2v)", "video -> audio (v2a)")
    ]
    assert all("R@10 100.0 (at chance: 100.0)" in line and line.endswith("; gallery 8") for line in lines)
    card = (folder / "README.md").read_text()
    assert "| R@10 | 100.0 (chance) | 100.0 (chance) | 100.0 |" in card
    assert [f"; gallery {size}" in card for size in (8, 16)] == [True, False]


# ---- whose folder it is --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--resume",)])
@pytest.mark.parametrize("name", ["README.md", "notes.txt", "results.json", "checkpoint.pt"])
def test_a_folder_of_other_files_is_left_as_it_is(tmp_path, monkeypatch, name, words):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("by hand")
    monkeypatch.chdir(mine)
    told = f"avcl: .: holds other files than a run's ({name}); choose an empty folder with --out\n"
    assert train(".", *words) == (2, told)
    assert content(mine) == {name: b"by hand"}


def test_an_empty_folder_may_be_taken_and_a_note_beside_a_run_does_no_harm(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "empty")[0] == 0
    (folder / "notes.txt").write_text("by hand")
    assert train(folder, "--resume")[0] == 0
    assert (folder / "notes.txt").read_text() == "by hand"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"settings": {"se', "damaged (Unterminated string starting at: line 1 column 15 (char 14))"),
        ("", "damaged (Expecting value: line 1 column 1 (char 0))"),
        ("[]", "not written by a run of avcl"),
        ('{"settings": {}, "versions": {"other": "1"}}', "not written by a run of avcl"),
        ('{"settings": {}, "versions": {"avcl": "1"}, "resumed": 3}', "not written by a run of avcl"),
    ],
)
@pytest.mark.parametrize("words", [(), ("--resume",)])
def test_a_damaged_run_json_is_one_line(folder, text, told, words):
    (folder / "run.json").write_text(text)
    before = content(folder)
    todo = "restore it, or choose another folder with --out"
    assert train(folder, *words) == (2, f"avcl: {folder}/run.json: {told}; {todo}\n")
    assert content(folder) == before


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(folder, caplog):
    results = (folder / "results.json").read_bytes()
    _, new = sorted((folder / "checkpoint").iterdir())
    new.write_bytes(new.read_bytes()[: new.stat().st_size // 2])
    assert train(folder, "--resume")[0] == 0
    assert [line for line in caplog.messages if line.startswith(f"{new}: damaged (its bytes are not those")] != []
    assert (folder / "results.json").read_bytes() == results


def test_where_no_checkpoint_is_whole_nothing_is_touched(folder):
    for path in (folder / "checkpoint").iterdir():
        path.write_bytes(b"half of it")
    before = content(folder)
    code, told = train(folder, "--resume")
    assert (code, len(told.splitlines())) == (2, 3)
    assert told.splitlines()[2].strip() == f"{folder}/checkpoint: holds no whole checkpoint; choose another --out"
    assert content(folder) == before


def test_an_earlier_avcls_checkpoint_is_one_line(folder):
    shutil.rmtree(folder / "checkpoint")
    (folder / "checkpoint.pt").write_bytes(b"")
    told = "nothing to resume: checkpoint.pt is an earlier avcl's; leave out --resume, with another --out if need be"
    assert train(folder, "--resume") == (2, f"avcl: {folder}: {told}\n")


def test_a_folder_in_which_another_process_runs_is_left_to_it(folder):
    before = content(folder)
    with RunFolder(folder).owned():
        said = "another process is running in it; wait for it, or choose another --out"
        assert train(folder, "--resume") == (2, f"avcl: {folder}: {said}\n")
    assert content(folder) == before, "its lock goes with it"
    assert train(folder, "--resume")[0] == 0


# ---- settings on resume --------------------------------------------------------------------------------------


def other(*sets):
    return [word for assignment in sets for word in ("--set", assignment)]


def test_a_resume_with_other_settings_is_refused_with_every_difference(folder):
    before, file = content(folder), folder / "run.json"
    sets = other("learner.lr=0.5", "seed=3", "scenario.tasks=3", "strategy=derpp", "learner.eval_batch_size=1")
    assert train(folder, "--resume", *sets) == (
        2,
        f"avcl: seed: 0 in {file}, 3 now\n"
        f"      scenario.tasks: 2 in {file}, 3 now\n"
        f"      strategy: er in {file}, derpp now\n"
        f"      learner.eval_batch_size: 48 in {file}, 1 now\n"
        f"      learner.lr: 0.001 in {file}, 0.5 now\n"
        "      --resume may change out, loggers, learner.workers, learner.loader_timeout, learner.max_bad_share, "
        "scenario.verify, checkpoint, the number of a CUDA device and of processes; for other settings choose another "
        "--out\n",
    )
    assert content(folder) == before


def test_other_data_of_the_same_settings_is_refused(folder):
    """What the settings do not say: clips that came or went since."""
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(manifest | {"clips": [4, 5], "data": "abc"}))
    code, told = train(folder, "--resume")
    assert code == 2
    assert told.splitlines()[:2] == [
        f"avcl: clips: [4, 5] in {folder}/run.json, [4, 4] now",
        f'      data: "abc" in {folder}/run.json, null now',
    ]


def test_what_cannot_change_the_result_may_differ_and_is_noted(folder, tmp_path):
    first = json.loads((folder / "run.json").read_text())
    results = (folder / "results.json").read_bytes()
    moved = folder.rename(tmp_path / "moved")
    assert train(moved, "--resume")[0] == 0
    assert train(moved, "--resume", *other("learner.workers=1", "learner.max_bad_share=0.5"))[0] == 0
    assert (moved / "results.json").read_bytes() == results
    manifest = json.loads((moved / "run.json").read_text())
    notes = manifest.pop("resumed")
    assert manifest == first, "what ran stays"
    out = [json.dumps(first["settings"]["out"]), json.dumps(str(moved))]
    more = {"learner.workers": ["0", "1"], "learner.max_bad_share": ["0.1", "0.5"]}
    assert [note["changed"] for note in notes] == [{"out": out}, {"out": out, **more}]
    assert all(set(note) == {"time", "command", "commit", "versions", "changed"} for note in notes)
