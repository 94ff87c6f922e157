"""Every command of the table of tables and figures, in its smallest form on the rendered stream."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from avcl.cli.main import app

pytestmark = pytest.mark.xdist_group("paper_tables-integration")  # what they share is made once

PAGE = Path(__file__).parents[2] / "avcl" / "evaluation" / "README.md"
COMMANDS = [
    words for words in re.findall(r"`(avcl [^`]*)`", PAGE.read_text()) if " runs/" in words or "--dry-run" in words
]
SMALL = {
    "base": "run",
    "seed": 0,
    "scenario": {"name": "synthetic", "tasks": 2, "classes": 2, "train_clips": 48, "eval_clips": 8, "pretraining": 0},
    "shared": {"memory": {"capacity": 16}},
    "learner": {"epochs": 1, "batch_size": 16, "lr": 1e-4},
}
FEWER = (
    (r"continual_vs\w*", "small.yaml"),
    (r"finetune er mir derpp .* multitask --seeds", "er stella --seeds"),
    (r"random mats stella", "mats"),
    (r"--seeds 3", "--seeds 1 --jobs 1"),
    (r"=both,importance,correlation", "=both,importance"),
    (r"=0.375,0.5,0.625", "=0.5,0.625"),
    (
        r"--methods er stella --vary strategy.memory.capacity=500,1000,2000",
        "--methods er --vary strategy.memory.capacity=8,16",
    ),
    (
        r"--methods er stella --seeds 1 --jobs 1 --out runs/shuffled",
        "--methods er --seeds 1 --jobs 1 --out runs/shuffled",
    ),
    (r" --config \w+\.yaml", ""),
    (
        r"(avcl eval .*)",
        r"\1 --set classification.epochs=4 --set event_localization.epochs=3 --set segmentation.epochs=8 "
        r"--set segmentation.batch_size=8",
    ),
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each command said, in the order of the page, in a folder of its own."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    said = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for command in COMMANDS:
            words = command
            for pattern, smaller in FEWER:
                words = re.sub(pattern, smaller, words)
            if " eval " in words:
                asked = words.split()[3]
                words = " ".join(
                    part for part in re.split(r" (?=--set )", words) if "--set" not in part or f" {asked}." in part
                )
            done = CliRunner().invoke(app, words.split()[1:])
            assert done.exit_code == 0, (words, done.output)
            said[command] = done.output
    return folder, said


@pytest.mark.process
def test_every_table_and_figure_has_a_command_that_runs(told):
    folder, said = told
    assert len(said) == len(COMMANDS) >= 20
    for name in ("scores.pdf", "kept.pdf", "memory.pdf", "curves.pdf", "matrix.pdf", "report.html"):
        assert (folder / name).stat().st_size > 5000
    assert "difference from er" in "".join(said.values()).lower()


@pytest.mark.process
def test_every_number_is_above_chance(told):
    folder, _ = told
    results = json.loads((folder / "runs/vs/stella-0/results.json").read_text())["metrics"]
    for way in ("a2v", "v2a"):
        measure = results["retrieval"]["measures"][f"{way}/R@mean"]
        assert measure["average"][-1] > measure["chance"]
    assert {"selection", "attention", "modality_gap", "efficiency"} <= results.keys()
    assert len(list((folder / "runs/vs/stella-0/pictures").glob("*.png"))) >= 2
    found = json.loads((folder / "runs/vs/stella-0/evaluations.json").read_text())
    above = {
        "retrieval_finetuned": ("a2v/R@mean", "v2a/R@mean"),
        "classification": ("top1",),
        "event_localization": ("balanced_accuracy",),
        "segmentation": ("miou",),
        "source_localization": ("matching/pointing",),
        "selection": ("stella/video/auc", "stella/audio/source_kept"),
    }
    for name, scores in above.items():
        for score in scores:
            assert found[name]["scores"][score] > found[name]["chance"][score], (name, found[name])
