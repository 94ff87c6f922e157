"""`avcl bench processes`: both turns are measured and written down; what they come to is not asked."""

import json

import pytest
from typer.testing import CliRunner

from avcl.cli.main import app


@pytest.mark.slow
@pytest.mark.process
def test_one_process_and_two_are_measured(tmp_path):
    out = tmp_path / "processes.json"
    words = ["--strategies", "er", "--steps", "1", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(app, ["bench", "processes", *words])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())["strategies"]["er"]
    assert [len(found["seconds"][many]) for many in ("1", "2")] == [1, 1]
    one, many = found["steps_per_second"]
    assert found["ratio"] == pytest.approx(many / one)
    assert f"er: 1 process {one:.2f} steps/s, 2 processes {many:.2f} steps/s" in done.output
