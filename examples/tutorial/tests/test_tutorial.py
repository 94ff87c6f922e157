import json

import numpy as np
from embedding_rank import EmbeddingRank
from json_lines import JsonLines
from npz_clips import NpzClips
from patch_mlp import PatchMlp

from avcl.testing import check_backbone, check_metric, check_scenario


def write_clips(root, count=8):
    """Two tasks of random clips."""
    draw = np.random.default_rng(0)
    for home in ("1/train", "1/eval", "2/train", "2/eval"):
        (root / home).mkdir(parents=True)
        for number in range(count):
            frames, mel = draw.integers(0, 256, (2, 3, 32, 32), np.uint8), draw.standard_normal((64, 32))
            np.savez(root / home / f"{number}.npz", frames=frames, mel=mel, label=int(home[0]))


def test_the_scenario(tmp_path):
    write_clips(tmp_path)
    (tmp_path / "1" / "train" / "corrupt.npz").write_bytes(b"no archive")
    check_scenario(lambda: NpzClips(root=tmp_path))


def test_the_backbone():
    check_backbone(lambda: PatchMlp(height=32, width=32, times=64, mels=32))


def test_the_metric():
    check_metric(EmbeddingRank)


def test_the_logger(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for resumed_at, steps in ((-1, (1, 2, 3)), (2, (3, 4))):  # killed after step 3, its checkpoint is of step 2
        logger = JsonLines(path, resumed_at)
        for step in steps:
            logger.log_single_metric("train/loss/total", 1.0, step)
        logger.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
