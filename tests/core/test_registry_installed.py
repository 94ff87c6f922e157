"""Plugins of packages that are really installed, through the command: good ones go on beside broken ones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import avcl
from avcl.errors import PluginError
from avcl.registry import Registry

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip installed a good third-party package and a broken one."""
    sources = tmp_path_factory.mktemp("sources")
    shutil.copytree(Path(__file__).parents[1] / "third_party", sources, dirs_exist_ok=True)
    (sources / "broken" / "avcl_broken_syntax.py").write_text("def strategies(:\n")
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    subprocess.run([*pip, *options, str(sources / "good"), str(sources / "broken")], check=True, timeout=240)
    return target


@pytest.fixture
def command(installed, tmp_path):
    """``command(*words)``: Python beside those packages, in an empty folder."""

    def command(*words, path=installed):
        unwanted = ("PYTHONPATH", "AVCL_DEBUG", "FORCE_COLOR")
        environment = {key: value for key, value in os.environ.items() if key not in unwanted}
        environment |= {"PYTHONPATH": str(path)} if path else {}
        options = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path, "timeout": 240}
        return subprocess.run([sys.executable, *words], **options)

    return command


@pytest.fixture
def train(command, tmp_path):
    """``train(strategy, *options)``: one task of a few clips."""

    def train(strategy, *options, path, before=()):
        (tmp_path / "run.yaml").write_text(
            "scenario: {name: synthetic, tasks: 1, classes: 2, train_clips: 2, eval_clips: 1}\n"
            "backbone: {name: cav-mae, size: tiny}\n"
            f"strategy: {strategy}\n"
            "learner: {batch_size: 4, epochs: 1}\n"
        )
        return command("-m", "avcl", *before, "train", "run.yaml", "--device", "cpu", *options, path=path)

    return train


def test_a_third_party_package_is_found_beside_a_broken_one(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    registry = Registry()
    errors = {plugin.module: plugin.error for plugin in registry.broken if "broken" in plugin.module}
    assert errors == {
        "avcl_broken_absent": "ModuleNotFoundError: No module named 'avcl_broken_absent'",
        "avcl_broken_exit": "SystemExit: usage: avcl_broken_exit FILE",
        "avcl_broken_missing": "ModuleNotFoundError: No module named 'a_library_that_nobody_has'",
        "avcl_broken_misspelt": "no hook is called 'strategys'; did you mean 'strategies'?",
        "avcl_broken_syntax": "SyntaxError: invalid syntax (avcl_broken_syntax.py, line 1)",
    }
    plugin, half = next((p, cls) for p, cls in registry.offers("strategies") if p.module == "avcl_half")
    assert str(plugin) == "avcl_half (avcl-half 2.1)"
    assert half(share=0.25).settings() == {"share": 0.25}
    with pytest.raises(PluginError) as caught:
        registry.find("strategies", "half")
    assert str(caught.value) == (
        "strategy 'half' is offered twice: by avcl_half (avcl-half 2.1) and by avcl_twin (avcl-broken 0.3); "
        "uninstall one"
    )


def test_the_list_shows_what_is_broken_and_ends_well(command):
    result = command("-m", "avcl", "list")
    assert (result.returncode, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "strategy half The first ``share`` of every batch. avcl_half avcl-half 2.1" in lines
    assert "strategy half The other half. avcl_twin avcl-broken 0.3" in lines
    told = "strategy 'half' is offered twice: by avcl_half (avcl-half 2.1) and by"
    assert any(line.startswith(told) for line in lines)
    missing = "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"
    assert f"avcl_broken_missing avcl-broken 0.3 {missing}" in lines
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout


def test_training_with_a_third_party_strategy_survives_broken_plugins(installed, tmp_path, train):
    site = shutil.copytree(installed, tmp_path / "site")
    (site / "avcl_twin.py").write_text("raise RuntimeError('not even this one')\n")
    result = train("{name: half, share: 0.5}", "--dry-run", path=site)
    assert (result.returncode, result.stderr) == (0, "")
    assert "strategy:\n  name: half\n  share: 0.5\n" in result.stdout
    assert "\n# steps: " in result.stdout


def test_a_plugin_that_fails_in_a_run_ends_it_in_one_line(installed, train):
    result = train("finetune", "--set", "seed=13", path=installed)
    assert (result.returncode, result.stdout) == (2, "")
    told = "plugin avcl_broken_late (avcl-broken 0.3) failed in metrics: ZeroDivisionError: division by zero"
    assert result.stderr == f"avcl: {told}\n"


def test_debug_shows_where_a_plugin_failed(installed, train):
    result = train("late", "--dry-run", path=installed, before=("--debug",))
    assert result.returncode == 2
    told = "strategy 'late' (avcl-broken 0.3, module avcl_broken_late) failed in penalty: AttributeError: "
    assert told in result.stderr
    assert 'in penalty\n    return {"extra": self.never_made}' in result.stderr


@pytest.mark.parametrize("editable", [True, False], ids=["editable", "not editable"])
def test_a_clone_that_hides_the_plugins_says_so_in_one_line(command, tmp_path, editable):
    shutil.copytree(Path(avcl.__file__).parent, tmp_path / "avcl", ignore=shutil.ignore_patterns("__pycache__"))
    # an editable install finds avcl.plugins wherever it was made from; without it there is none beside ./avcl
    forget = "" if editable else "sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]; "
    start = f"import sys; {forget}sys.argv = ['avcl', 'list']; from avcl.cli.main import main; main()"
    result = command("-c", start, path=None)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"avcl: avcl in {tmp_path / 'avcl'} has no plugins: started here, this folder hides the installed avcl; "
        f"run `python -m pip install -e {tmp_path}`, or start from another folder\n"
    )
