"""Media files with damage at random places through ``data check``, ``data prepare`` and ``train``.

No crash and no hang; and the pictures that a learner gets are those of a plain decode of the same bytes.
"""

import json

import pytest
import torch
from helpers.miniature import SMALL
from helpers.mutants import plain_decode, shown, write_mutants
from typer.testing import CliRunner

from avcl.cli.data import scenario_of_files
from avcl.cli.main import app
from avcl.data import transforms
from avcl.errors import BadClip

pytestmark = pytest.mark.media


@pytest.mark.parametrize(
    "count",
    [48, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_mutated_media_files_are_refused_or_read_as_a_plain_decoder_reads_them(tmp_path, count):
    root = write_mutants(tmp_path / "root", count)
    settings = {
        "scenario": {"name": "folder", "root": str(root), "max_bad_share": 1.0, **SMALL},
        "backbone": {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1},
        "strategy": "finetune",
        "learner": {"epochs": 1, "batch_size": 4, "max_bad_share": 1.0},
    }
    file, store = tmp_path / "run.yaml", tmp_path / "store"
    file.write_text(json.dumps(settings))
    avcl("data", "check", file, "--out", tmp_path / "clips.json")
    avcl("data", "prepare", file, "--out", store, "--codec", "png", "--workers", 1)
    avcl("train", file, "--out", tmp_path / "of files")
    avcl(
        "train",
        file,
        "--out",
        tmp_path / "of store",
        "--set",
        f"scenario.store={store}",
        "--set",
        "scenario.verify=true",
    )

    clips = json.loads((tmp_path / "clips.json").read_text())["clips"]
    usable = {clip["path"] for clip in clips if clip["state"] == "usable"}
    assert count / 4 < len(usable) < len(clips) - count / 8
    assert compared(settings["scenario"]) >= count / 4
    assert compared(settings["scenario"] | {"store": str(store)}) >= count / 4


def avcl(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"


def compared(settings):
    """How many clips have pictures; all of them equal those of a plain decode, cut to the size of a store."""
    scenario, count = scenario_of_files({"scenario": settings}), 0
    size = transforms.store_size(scenario.height, scenario.width)
    for split in ("train", "eval"):
        for source in (source for task in range(2) for source in scenario.clips(task, split).sources):
            decoded = plain_decode(source.path)
            for start in (0.0, 0.5, 1.0):  # a training window begins at any eighth of these
                times = [start, start + 0.5]
                try:
                    pictures = source.pictures(times)
                except BadClip:
                    continue
                assert decoded, source.path
                plain = torch.stack([torch.from_numpy(picture.copy()) for picture in shown(decoded, times)])
                wanted = transforms.shrink(plain.permute(0, 3, 1, 2), *size)
                assert torch.equal(transforms.shrink(pictures, *size), wanted), (source.path, times)
                count += start == 0.0
    return count
