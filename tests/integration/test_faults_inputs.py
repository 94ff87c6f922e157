"""A loss that is not finite, names that no file can have, control characters in names: what the command says."""

import json
import logging
import os

import pytest
from helpers.damage import avcl, faulty, run_file
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.errors import CONTROL
from avcl.registry import registry
from avcl.utils import lines

__all__ = ["faulty"]

pytestmark = [pytest.mark.process]

ESCAPE = "\x1b]0;owned\x07"
LONG = "n" * 300
DENIED = "permission denied; change its permissions, or choose another place"
NOT = "(Permission denied); choose another folder with --out"


@pytest.mark.usefixtures("faulty")
def test_a_loss_that_is_not_finite_names_its_clips_and_terms_in_a_file(tmp_path):
    """The input of one clip is NaN: its own terms are, and every contrast with it."""
    words = ["train", run_file(tmp_path), "--out", tmp_path / "run", "--set", "scenario.nan=5"]
    code, told = avcl(*words)
    assert code == 2
    assert told.startswith("avcl: step ")
    lower = "; lower learner.lr or set learner.clip_norm; its clips and terms are in "
    assert told.endswith(f"{lower}{tmp_path}/run/nan.json\n")
    found = json.loads((tmp_path / "run" / "nan.json").read_text())
    assert found["losses"]["mae_video"] == "nan"
    assert found["weights_are_finite"] is True
    (clip,) = found["clips"]
    assert (clip["clip"], clip["replayed"], clip["input_is_finite"]) == (5, False, False)
    assert clip["terms"]["mae_video"] == "nan"
    assert clip["name"] is None  # these clips are no files


@pytest.mark.usefixtures("faulty")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "{config}", "--out", "{here}/{long}"], "{here}/{long}: cannot be read (File name too long)"),
        (["train", "{config}", "--set", "weights={long}"], "{long}: the name is too long; choose a shorter one"),
        (["train", "{long}"], "{long}: the name is too long; choose a shorter one"),
        (["eval", "{long}", "knn"], "{long}: the name is too long; choose a shorter one"),
        (["report", "{long}"], "{long}: the name is too long; choose a shorter one"),
        (["init", "--out", "{long}.yaml"], "{long}.yaml: the name is too long; choose a shorter one"),
        (["train", "{config}", "--set", 'out="a\\0b"'], r"out: invalid value 'a\x00b': must not hold a NUL character"),
        (
            ["train", "{config}", "--set", 'weights="a\\0"'],
            r"weights: invalid value 'a\x00': must not hold a NUL character",
        ),
    ],
)
def test_a_name_that_no_file_can_have(tmp_path, monkeypatch, words, told):
    monkeypatch.chdir(tmp_path)
    names = {"config": run_file(tmp_path), "here": tmp_path, "long": LONG}
    code, said = avcl(*(word.format(**names) if "{" in word else word for word in words))
    assert said.splitlines()[0].startswith(f"avcl: {told.format(**names)}")
    assert (code, len(list(tmp_path.iterdir()))) == (2, 1)


@pytest.mark.usefixtures("faulty")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    """By another user than root, for whom no folder is read-only."""
    if os.geteuid():
        pytest.skip("becomes another user, as root alone can")
    config, locked = run_file(tmp_path), tmp_path / "locked"
    locked.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    registry()  # reads what is installed
    os.seteuid(65534)
    try:
        code, told = avcl("init", "--out", locked / "x.yaml")
        assert (code, told) == (
            2,
            f"avcl: {locked}/x.yaml: permission denied; change its permissions, or choose another place\n",
        )
        code, told = avcl("train", config, "--out", locked / "run")
        assert (code, told) == (
            2,
            f"avcl: {locked}/run: cannot be made (Permission denied); choose another folder with --out\n",
        )
    finally:
        os.seteuid(0)


@pytest.mark.usefixtures("faulty")
def test_control_characters_of_names_reach_neither_terminal_nor_log(tmp_path, monkeypatch, capsys):
    config = run_file(tmp_path)
    name = f"a{ESCAPE}b"
    for words in (
        ["train", tmp_path / f"{name}.yaml"],
        ["train", config, "--set", f"learner.{name}=1"],
        ["train", config, "--set", f"strategy={json.dumps(name)}"],
        ["report", tmp_path / name],
    ):
        code, told = avcl(*words)
        assert (code, CONTROL.search(told)) == (2, None)
        assert "a\\x1b]0;owned\\x07b" in told
    asked = [
        "--set",
        f"scenario.called={json.dumps(name)}",
        "--set",
        "loggers=[progress]",
        "--out",
        str(tmp_path / name),
    ]
    done = CliRunner().invoke(app, ["train", str(config), *asked])
    assert (done.exit_code, CONTROL.search(done.stdout + done.stderr)) == (0, None)
    assert "task 1/2 a\\x1b]0;ownedbtask_0, epoch 1/1" in done.stderr  # rich leaves BEL out
    assert "a\\x1b]0;ownedb\n" in done.stdout
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.INFO))
    lines.log(logging.INFO, anew=True)
    logging.root.warning("skipped %s", f"{name}\nforged: line\udcff")
    assert capsys.readouterr().err == "avcl: skipped a\\x1b]0;owned\\x07b\\nforged: line\\udcff\n"
