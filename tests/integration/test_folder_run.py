"""Real video files with sound through two tasks of STELLA, with three broken ones among them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from helpers.material import sine, truncate, write_clip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two tasks of two classes of six clips each, as mp4, mkv and webm; three more that cannot be used."""
    root = tmp_path_factory.mktemp("my videos")
    for task in ("birds", "trains"):
        for label in ("near", "far"):
            folder = root / task / label
            folder.mkdir(parents=True)
            for number in range(6):
                ending = ("mp4", "mkv", "mov")[number % 3]
                pitch = 200.0 * (number + 1) + (1500 if task == "trains" else 0)
                tone = sine(2.0, 44100, pitch)
                write_clip(folder / f"clip {number}.{ending}", seconds=2.0, tracks=[{0: tone, 1: tone}])
    whole = write_clip(root / "birds" / "near" / "truncated.mp4", seconds=2.0, muxing={"movflags": "faststart"})
    truncate(whole, 0.4)
    write_clip(root / "birds" / "far" / "silent.mp4", seconds=2.0, tracks=[{0: np.zeros(88200, np.float32)}])
    (root / "trains" / "near" / "text.mp4").write_text("not a video\n" * 100)
    return root


def test_stella_trains_through_two_tasks_and_survives_three_broken_files(videos, tmp_path):
    scenario = {"name": "folder", "root": str(videos), "frames": 2, "height": 64, "width": 64, "times": 64}
    settings = {
        "scenario": scenario | {"mels": 64, "window": 1.0, "seconds": 2.0, "max_bad_share": 0.2, "eval_share": 0.34},
        "backbone": {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1},
        "strategy": {"name": "stella", "keep_video": 0.6, "keep_audio": 0.6, "memory": {"capacity": 8}},
        "learner": {"epochs": 2, "batch_size": 4, "lr": 1e-3, "workers": 2, "max_bad_share": 0.2},
        "out": str(tmp_path / "run"),
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    done = subprocess.run(
        [sys.executable, "-m", "avcl", "train", str(file)], capture_output=True, text=True, timeout=280, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["tasks"] == ["birds", "trains"]
    assert results["tasks_done"] == 2
    assert len(results["metrics"]["retrieval"]["measures"]["v2a/R@10"]["matrix"]) == 2
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in results["bad_clips"].items()}
    assert set(reasons) == {"truncated.mp4", "silent.mp4", "text.mp4"}
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in done.stderr
    assert reasons["silent.mp4"] == "silent"  # which shows when it is decoded
