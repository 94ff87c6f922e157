"""Real video files with sound through two tasks of STELLA, with three broken ones among them."""

import json

from helpers.miniature import SMALL, videos
from typer.testing import CliRunner

from avcl.cli.main import app


def test_stella_trains_through_two_tasks_and_survives_three_broken_files(tmp_path, caplog):
    root = videos(tmp_path / "my videos")
    settings = {
        "scenario": {"name": "folder", "root": str(root), "max_bad_share": 0.4, "eval_share": 0.34, **SMALL},
        "backbone": {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1},
        "strategy": {"name": "stella", "keep_video": 0.6, "keep_audio": 0.6, "memory": {"capacity": 8}},
        "learner": {"epochs": 2, "batch_size": 4, "lr": 1e-3, "workers": 2, "max_bad_share": 0.4},
        "out": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    done = CliRunner().invoke(app, ["train", str(tmp_path / "run.yaml")])
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["tasks"], results["tasks_done"]) == (["birds", "trains"], 2)
    assert len(results["metrics"]["retrieval"]["measures"]["v2a/R@10"]["matrix"]) == 2
    reasons = {path.removeprefix(f"{root}/"): reason for path, reason in results["bad_clips"].items()}
    assert reasons == {
        "birds/near/clip 1.mp4": "silent",  # which shows when it is decoded
        "birds/near/clip 2.mp4": "truncated",
        "trains/near/clip 3.mp4": "no audio stream",
    }
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in caplog.text
