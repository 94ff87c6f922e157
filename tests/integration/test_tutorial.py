"""The tutorial packages install, are found, keep their promises, and train together."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers.examples import EXAMPLES, example
from helpers.toys import train
from torch.nn.functional import cosine_similarity

from avcl.cli.plugins import show_all
from avcl.config.files import read_config
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.registry import registry
from avcl.testing import Noise


def python(*words, path, cwd):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FORCE_COLOR")}
    environment |= {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", *words]
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=cwd, timeout=240)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Copies of the packages' sources, and the folder into which pip installed them, as this process sees it."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    names = ("calm", "tutorial")
    for name in names:
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
        shutil.copytree(EXAMPLES / name, source / name, ignore=ignored)
    pip = ["pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-index", "--no-deps"]
    places = [f"./{name}" for name in names]
    made = python(*pip, "--no-build-isolation", "--target", str(site), *places, path="", cwd=source)
    assert made.returncode == 0, made.stderr
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        registry.cache_clear()
        yield source, site
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_packages_are_found_when_they_are_installed(packages, capsys):
    show_all(registry())  # what `avcl list` does, without a process that imports torch once more
    told = capsys.readouterr().out
    assert "broken" not in told
    rows = [(line.split()[:2], re.split(r"  +", line.strip())[-1]) for line in told.splitlines() if "avcl-" in line]
    assert sorted(rows) == [
        (["backbone", "patch-mlp"], "avcl-tutorial 0.1"),
        (["loggers", "json-lines"], "avcl-tutorial 0.1"),
        (["metrics", "embedding-rank"], "avcl-tutorial 0.1"),
        (["scenario", "npz-clips"], "avcl-tutorial 0.1"),
        (["strategy", "calm"], "avcl-calm 0.1"),
    ]


@pytest.mark.slow  # a process of its own; what the packages do together is tested below
def test_the_packages_own_tests_pass(packages):
    source, site = packages
    tested = python("pytest", "-q", "-p", "no:cacheprovider", "calm", "tutorial", path=site, cwd=source)
    assert tested.returncode == 0, tested.stdout
    assert "5 passed" in tested.stdout


def test_a_run_of_the_packages_parts(packages, tmp_path):
    """All five together; resumed, the log goes on where the checkpoint is."""
    example("tutorial/tests/test_tutorial").write_clips(tmp_path / "clips")
    (tmp_path / "run.yaml").write_text(f"""
        scenario: {{name: npz-clips, root: {tmp_path / "clips"}}}
        backbone: {{name: patch-mlp, dim: 8}}
        strategy: {{name: calm, memory: {{capacity: 8}}}}
        learner: {{epochs: 1, batch_size: 4}}
        out: {tmp_path / "out"}
    """)
    raw = read_config(tmp_path / "run.yaml")
    results = Run.from_config(raw).train()
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss/turn", "train/loss/mae_audio", "eval/rank/audio", "eval/a2v/R@10/1"} <= {
        x["tag"] for x in lines
    }
    ranks = results["metrics"]["rank"]
    assert ranks["video"] == [line["value"] for line in lines if line["tag"] == "eval/rank/video"]
    assert len(ranks["audio"]) == 2 and all(1 <= rank <= 8 for rank in ranks["audio"])
    with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "tag": "of a killed run", "value": 1}\n')
    assert Run.from_config(raw).train(resume=True) == results
    again = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert again == lines


def test_calm_does_what_it_says(make_learner):
    drawn = []

    class Watched(example("calm/calm").Calm):
        def draw(self, learner):
            drawn.append(super().draw(learner))
            return drawn[-1]

    strategy = Watched(memory=Memory(capacity=8), weight=3.0)
    learner = make_learner(strategy)
    train(learner, Noise())
    now, rows, stored = learner.output, strategy.replayed(learner), drawn[-1].extra
    cosines = [
        cosine_similarity(side[rows], stored[f"{name}_embedding"]).mean()
        for name, side in (("audio", now.audio), ("video", now.video))
    ]
    assert learner.losses["turn"].item() == pytest.approx(3 * (2 - sum(cosines)).item(), rel=1e-5)
    assert learner.losses["turn"] > 0
