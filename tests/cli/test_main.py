"""The command line: quick to answer, and a user's mistake is a line and code 2, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import avcl.experiment.pretraining
import avcl.experiment.run
from avcl.cli.main import app
from avcl.errors import SettingsError, StoppedError, UserError

HEAVY = {"torch", "avalanche", "numpy", "yaml", "av", "timm", "matplotlib", "scipy", "sklearn", "jinja2", "joblib"}


def avcl_command(*words):
    return CliRunner().invoke(app, list(words))


def fresh(*words, **environment):
    """The command in a process of its own, which ends by naming on stderr the heavy modules that it imported."""
    code = f"""if True:
        import atexit, sys
        atexit.register(lambda: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr))
        sys.argv = ["avcl", *{words!r}]
        from avcl.cli.main import main
        main()"""
    environment = {**os.environ, "_TYPER_FORCE_DISABLE_TERMINAL": "1", "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "Continual audio-video pre-training"),
        (["train", "--help"], "--dry-run"),
        (["bench", "training", "--help"], "--cpu-time"),
        (["init", "--list"], "STELLA on your own videos"),
        (["--version"], f"avcl {version('avcl')}\n"),
    ],
)
def test_help_and_version_import_nothing_heavy(words, said):
    result = fresh(*words)
    assert (result.returncode, result.stderr) == (0, "[]\n")
    assert said in result.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "avcl ",
            [
                *("train", "pretrain", "eval", "init", "list", "show", "embed", "search"),
                *("sweep", "results", "plot", "report", "doctor", "data", "bench", "weights"),
            ],
        ),
        ("avcl show m", ["mats", "memory", "metrics", "mir", "msrvtt", "multitask"]),
        ("avcl train r", ["run", "runs.yaml"]),
        ("avcl init v", ["videos"]),
    ],
)
def test_completion_imports_nothing_heavy(line, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs.yaml").touch()
    result = fresh(_AVCL_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(line.count(" ")))
    assert (result.stdout.split(), result.stderr) == (expected, "[]\n")


def test_a_mistake_in_a_file_is_told_before_anything_heavy_is_imported(tmp_path):
    (tmp_path / "run.yaml").write_text("a: b: c\n")
    result = fresh("train", str(tmp_path / "run.yaml"))
    assert result.returncode == 2
    told = f"avcl: {tmp_path}/run.yaml:1:5: not valid YAML: mapping values are not allowed here"
    assert result.stderr.splitlines() == [told, "['yaml']"]


class Recorded:
    """Stands in for Run: keeps what it was made from and asked to do."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.folder = Path("runs/x")
        self.settings = {"seed": 0, "learner": {"lr": 1e-4}}
        self.error: BaseException | None = None

    def from_config(self, raw: dict[str, Any]) -> Recorded:
        self.asked.append(raw)
        if self.error:
            raise self.error
        return self

    def train(self, resume: bool = False) -> dict[str, Any]:
        self.asked.append(("train", resume))
        measure = {"matrix": [[50.0]], "average": [50.0], "forgetting": [None]}
        measures = {"a2v/R@mean": measure, "v2a/R@10": measure}
        return {"tasks": ["birds"], "metrics": {"retrieval": {"measures": measures}, "speed": {}}}

    def dry_run(self) -> dict[str, str]:
        self.asked.append("dry run")
        return {"steps": "3 of 8 clips"}


@pytest.fixture
def run(monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr(avcl.experiment.run, "Run", recorded)
    monkeypatch.setattr(
        avcl.experiment.pretraining, "pretrain", lambda run, *how: recorded.asked.append(("pretrain", *how))
    )
    return recorded


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\nstrategy: er\n")
    return str(path)


def test_train_reads_the_file_then_set_then_the_options(run, config):
    words = ("--set", "seed=2", "--set", "strategy.replay=3", "--out", "there", "--device", "cpu", "--resume")
    result = avcl_command("train", config, *words)
    assert result.exit_code == 0, result.output
    raw = {"seed": 2, "strategy": {"name": "er", "replay": 3}, "out": "there", "device": "cpu"}
    assert run.asked == [raw, ("train", True)]
    assert "audio -> video (a2v): mean of R@1, R@5 and R@10, percent" in result.stdout
    assert "after the last task, mean over tasks" in result.stdout
    assert result.stdout.endswith("Everything is in runs/x\n")


def test_a_strategy_by_name_comes_before_set(run, config):
    words = ("--strategy", "derpp", "--set", "strategy.alpha=2")
    assert avcl_command("train", config, *words).exit_code == 0
    assert avcl_command("pretrain", config, *words, "--out", "w.safetensors").exit_code == 0
    assert run.asked[0] == run.asked[2] == {"seed": 1, "strategy": {"name": "derpp", "alpha": 2}}


def test_a_dry_run_prints_a_file_that_can_be_used(run, config, tmp_path):
    result = avcl_command("train", config, "--dry-run")
    assert result.exit_code == 0, result.output
    assert run.asked == [{"seed": 1, "strategy": "er"}, "dry run"]
    assert result.stdout == "seed: 0\nlearner:\n  lr: 0.0001\n\n# steps: 3 of 8 clips\n"


def test_pretrain_writes_safetensors_only(run, config):
    assert avcl_command("pretrain", config, "--out", "w.safetensors").exit_code == 0
    assert run.asked == [{"seed": 1, "strategy": "er"}, ("pretrain", Path("w.safetensors"), False)]
    refused = avcl_command("pretrain", config, "--out", "w.pt")
    assert refused.stderr == "avcl: --out: invalid value 'w.pt': must end in .safetensors\n"


MEMORY = (
    "avcl: out of memory (tried to allocate{}); lower learner.batch_size or learner.eval_batch_size "
    "(learner.accumulate keeps the size of a step), strategy.replay, memory.capacity, or the sizes of the scenario "
    "and the backbone\n"
)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("run.yaml: no such file"), 2, "avcl: run.yaml: no such file\n"),
        (SettingsError(["seed: wrong", "out: wrong"]), 2, "avcl: seed: wrong\n      out: wrong\n"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"), 2, MEMORY.format(" 2.00 GiB")),
        (RuntimeError("can't allocate memory: you tried to allocate 400 bytes. Error"), 2, MEMORY.format(" 400 bytes")),
        (KeyboardInterrupt(), 130, "avcl: interrupted\n"),
        (StoppedError("stopped by SIGTERM after step 3"), 0, "avcl: stopped by SIGTERM after step 3\n"),
    ],
)
def test_a_users_mistake_is_told_without_a_traceback(run, config, error, code, told):
    run.error = error
    result = avcl_command("train", config)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", told)


@pytest.mark.parametrize(
    ("words", "environment", "error"),
    [(["--debug"], {}, UserError("no")), ([], {"AVCL_DEBUG": "1"}, UserError("no")), ([], {}, ZeroDivisionError())],
)
def test_debug_shows_where_a_mistake_was_found_and_a_bug_shows_it_always(run, config, words, environment, error):
    run.error = error
    done = CliRunner().invoke(app, [*words, "train", config], env=environment)
    if isinstance(error, ZeroDivisionError):
        assert done.exception is error
        return
    lines = done.stderr.splitlines()
    assert (done.exit_code, lines[0], lines[-1]) == (2, "avcl: Traceback (most recent call last):", "avcl: no")
    assert "in from_config" in done.stderr


def test_a_wrong_command_exits_with_two():
    for words in (["trian"], ["train"], ["train", "x.yaml", "--sed", "a=1"], ["show"]):
        result = avcl_command(*words)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_list_and_show_print_what_is_installed():
    assert "avcl.plugins.derpp" in avcl_command("list").stdout
    assert avcl_command("show", "er").stdout.startswith("strategy er: avcl.plugins.er.ER, from avcl.plugins.er (avcl ")
