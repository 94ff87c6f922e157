"""The benchmark of reading and storing clips runs, on small ones, and its clips are what it says."""

import re

from typer.testing import CliRunner

from avcl.bench import data_road as bench
from avcl.cli.main import app
from avcl.data.decode import probe
from avcl.data.source import Source, glance


def test_it_writes_a_line_for_each_road(monkeypatch):
    monkeypatch.setattr(bench, "KINDS", {"small": (64, 48, 5)})
    done = CliRunner().invoke(app, ["bench", "data", "--clips", "1", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[2] == "small, 1 clips of 10 s"
    for name, line in zip(("files", "store, jpeg at 8 a second", "store, png at 8 a second"), lines[4:7], strict=True):
        assert re.fullmatch(rf"{name} +\d\.\d\d +(-|\d+\.\d) +\d+\.\d +\d+\.\d", line)
    assert re.fullmatch(r"check, of files: \d+\.\d clips a second", lines[7])


def test_its_clips_move_and_are_heard(tmp_path):
    bench.write_clip(tmp_path / "clip.mp4", 0, 64, 48, 5)
    found = probe(str(tmp_path / "clip.mp4"))
    assert (found.width, found.height, found.fps, round(found.video), round(found.audio)) == (64, 48, 5.0, 10, 10)
    assert not glance(Source(str(tmp_path / "clip.mp4"), 0, 0, 0), window=4.0, seconds=10.0)
