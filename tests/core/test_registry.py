"""Plugins are found one by one, through entry points; whatever is broken stays with the plugin that broke it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

import avcl
from avcl.errors import PluginError, UserError
from avcl.registry import Registry

HERE = Path(__file__).parents[1]
HEAD = """
from dataclasses import dataclass
from torch import nn
from avcl import Backbone, Scenario, Strategy, hookimpl
from pydantic import PositiveInt
"""
GOOD = (
    HEAD
    + """
@dataclass(kw_only=True)
class Good(Strategy):
    name = "{name}"
    size: PositiveInt = 1

@hookimpl
def strategies():
    return [Good]
"""
)


class Plugins:
    """Writes plugin modules that are found as entry points."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.points: list[EntryPoint] = []

    def __call__(self, module: str, source: str) -> None:
        (self.folder / f"{module}.py").write_text(source)
        self.points.append(EntryPoint(name=module.removeprefix("plugin_"), value=module, group="avcl"))

    def registry(self) -> Registry:
        return Registry(self.points)

    def error(self, source: str) -> str:
        """What is wrong with a plugin of this source, next to a good one that keeps working."""
        self("plugin_good", GOOD.format(name="good"))
        self("plugin_bad", source)
        registry = self.registry()
        assert registry.find("strategies", "good").name == "good"
        assert [plugin.module for plugin in registry.broken] == ["plugin_bad"]
        told = registry.broken[0].error
        assert told is not None
        assert "\n" not in told
        return told


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield Plugins(tmp_path)
    for module in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[module]


def test_a_plugin_is_found_and_says_where_it_is_from(plugins: Plugins) -> None:
    plugins("plugin_one", GOOD.format(name="one"))
    registry = plugins.registry()
    (plugin,) = registry.plugins
    assert (plugin.name, plugin.module, plugin.error, plugin.hooks) == ("one", "plugin_one", None, ("strategies",))
    assert str(plugin) == "plugin_one (of no distribution)"
    cls = registry.find("strategies", "one")
    assert cls is sys.modules["plugin_one"].Good
    assert list(registry.offers("strategies")) == [(plugin, cls)]
    assert list(registry.offers("scenarios")) == []
    assert registry.broken == []


def test_an_unknown_name_suggests_the_nearest(plugins: Plugins) -> None:
    for name in ("stella", "er", "derpp"):
        plugins(f"plugin_{name}", GOOD.format(name=name))
    registry = plugins.registry()
    with pytest.raises(UserError, match=r"^unknown strategy 'stela'; did you mean 'stella'\?$"):
        registry.find("strategies", "stela")
    with pytest.raises(UserError, match=r"^unknown strategy 'xyz'; allowed: derpp, er, stella$"):
        registry.find("strategies", "xyz")
    with pytest.raises(UserError, match=r"^unknown scenario 'er'$"):
        registry.find("scenarios", "er")


def test_an_unknown_name_tells_of_broken_plugins_in_the_same_line(plugins: Plugins) -> None:
    plugins("plugin_er", GOOD.format(name="er"))
    plugins("plugin_a", "import a_library_that_nobody_has\n")
    plugins("plugin_b", "1 / 0\n")
    with pytest.raises(UserError) as caught:
        plugins.registry().find("strategies", "err")
    assert str(caught.value) == (
        "unknown strategy 'err'; did you mean 'er'?; broken plugins: "
        "plugin_a (of no distribution): ModuleNotFoundError: No module named 'a_library_that_nobody_has'; "
        "plugin_b (of no distribution): ZeroDivisionError: division by zero"
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_library_that_nobody_has", "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"),
        ("from avcl import nothing", "ImportError: cannot import name 'nothing' from 'avcl'"),
        ("def strategies(:\n", "SyntaxError: invalid syntax (plugin_bad.py, line 1)"),
        ("import sys; sys.exit('usage: this')", "SystemExit: usage: this"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        (
            HEAD + "@hookimpl\ndef strategys(): return []",
            "no hook is called 'strategys'; did you mean 'strategies'?",
        ),
        (
            HEAD + "@hookimpl\ndef metrics(learner): return []",
            "PluginValidationError: Plugin 'plugin_bad' for hook 'metrics' hookimpl definition: metrics(learner)",
        ),
        (
            HEAD + "def strategies(): return []",
            "implements no hook; decorate one of backbones, doctor, loggers, metrics, scenarios, strategies "
            "with avcl.hookimpl",
        ),
        (
            HEAD + "@hookimpl\ndef strategies(): return Strategy",
            "strategies() returned <class 'avcl.strategy.Strategy'>; a list of classes is needed",
        ),
        (HEAD + "@hookimpl\ndef strategies(): return [3]", "strategies() returned 3, which is not a subclass of"),
        (
            HEAD + "@dataclass(kw_only=True)\nclass A(Scenario): name = 'a'\n@hookimpl\ndef strategies(): return [A]",
            "strategies() returned A, which is not a subclass of avcl.Strategy",
        ),
        (
            HEAD + "@dataclass(kw_only=True)\nclass A(Strategy): pass\n@hookimpl\ndef strategies(): return [A]",
            'strategies() returned A, which has no name; set name = "..."',
        ),
        (
            HEAD + "class A(Strategy):\n name = 'a'\n size: int = 3\n@hookimpl\ndef strategies(): return [A]",
            "strategies() returned A, which is not decorated with @dataclass(kw_only=True)",
        ),
        (
            HEAD
            + "@dataclass\nclass A(Strategy):\n name = 'a'\n size: int = 3\n@hookimpl\ndef strategies(): return [A]",
            "strategies() returned A, which is not decorated with @dataclass(kw_only=True)",
        ),
        (
            HEAD + "@dataclass(kw_only=True)\nclass A(Backbone): name = 'a'\n@hookimpl\ndef backbones(): return [A]",
            "backbones() returned A, a torch module that cannot be hashed; decorate it with "
            "@dataclass(kw_only=True, eq=False)",
        ),
        (
            HEAD + "@dataclass(kw_only=True)\nclass A(Strategy):\n name = 'a'\n size: 'Cuont' = 3\n"
            "@hookimpl\ndef strategies(): return [A]",
            "NameError: name 'Cuont' is not defined",
        ),
        (HEAD + "@hookimpl\ndef strategies(): return [1 / 0]", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_plugin_says_why_and_others_go_on(plugins: Plugins, source: str, error: str) -> None:
    assert plugins.error(source).startswith(error)


def test_the_traceback_of_a_broken_plugin_is_in_the_debug_log(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    plugins("plugin_bad", "def load():\n    return 1 / 0\nload()\n")
    with caplog.at_level(logging.DEBUG, logger="avcl.registry"):
        plugins.registry()
    assert "plugin plugin_bad (of no distribution) is broken" in caplog.text
    assert "in load\n    return 1 / 0" in caplog.text


def test_two_classes_of_one_name_name_both_modules_when_asked_for(plugins: Plugins) -> None:
    plugins("plugin_one", GOOD.format(name="same"))
    plugins("plugin_two", GOOD.format(name="same"))
    plugins("plugin_three", GOOD.format(name="other"))
    registry = plugins.registry()
    assert registry.broken == []
    assert registry.find("strategies", "other").name == "other"
    told = (
        "strategy 'same' is offered twice: by plugin_one (of no distribution) and by plugin_two (of no distribution); "
        "uninstall one"
    )
    assert registry.conflict("strategies", "same") == told
    assert registry.conflict("strategies", "other") is None
    with pytest.raises(PluginError) as caught:
        registry.find("strategies", "same")
    assert str(caught.value) == told


def test_a_class_that_two_plugins_share_is_no_conflict(plugins: Plugins) -> None:
    plugins("plugin_one", GOOD.format(name="same"))
    plugins(
        "plugin_two",
        "from avcl import hookimpl\nfrom plugin_one import Good\n@hookimpl\ndef strategies(): return [Good]",
    )
    assert plugins.registry().find("strategies", "same") is sys.modules["plugin_one"].Good


def test_one_module_counts_once(plugins: Plugins) -> None:
    plugins("plugin_one", GOOD.format(name="one"))
    plugins("plugin_one", GOOD.format(name="one"))
    registry = plugins.registry()
    assert [plugin.error for plugin in registry.plugins] == [None, "plugin_one is an entry point twice"]
    assert registry.find("strategies", "one").name == "one"


def test_metrics_and_loggers_are_asked_with_the_run(plugins: Plugins) -> None:
    source = HEAD + "@hookimpl\ndef metrics(run): return [run.seed, '{0}']\n@hookimpl\ndef loggers(): return ['{0}']\n"
    plugins("plugin_one", source.format("one"))
    plugins("plugin_two", source.format("two"))
    registry = plugins.registry()
    run = SimpleNamespace(seed=7)
    assert sorted(map(str, registry.metrics(run))) == ["7", "7", "one", "two"]  # type: ignore[arg-type]
    assert sorted(map(str, registry.loggers(run))) == ["one", "two"]  # type: ignore[arg-type]


# ---- packages that are really installed -----------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed a good third-party package and a broken one."""
    sources = tmp_path_factory.mktemp("sources")
    shutil.copytree(HERE / "third_party", sources, dirs_exist_ok=True)
    (sources / "broken" / "avcl_broken_syntax.py").write_text("def strategies(:\n")
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-index"]
    options = ["--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    subprocess.run([*pip, *options, str(sources / "good"), str(sources / "broken")], check=True, timeout=240)
    return target


def command(*words: str, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    unwanted = ("PYTHONPATH", "AVCL_DEBUG", "FORCE_COLOR")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=cwd, timeout=240
    )


def test_a_third_party_package_is_found_beside_a_broken_one(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_list_shows_what_is_broken_and_ends_well(installed: Path, tmp_path: Path) -> None:
    result = command("-m", "avcl", "list", path=installed, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "strategy half The first ``share`` of every batch. avcl_half avcl-half 2.1" in lines
    assert "strategy half The other half. avcl_twin avcl-broken 0.3" in lines
    assert any(
        line.startswith("strategy 'half' is offered twice: by avcl_half (avcl-half 2.1) and by") for line in lines
    )
    assert (
        "avcl_broken_missing avcl-broken 0.3 ModuleNotFoundError: No module named 'a_library_that_nobody_has'" in lines
    )
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout


def test_training_with_a_third_party_strategy_survives_broken_plugins(installed: Path, tmp_path: Path) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    (site / "avcl_twin.py").write_text("raise RuntimeError('not even this one')\n")
    (tmp_path / "run.yaml").write_text(
        "scenario: {name: synthetic, tasks: 1, classes: 2, train_clips: 2, eval_clips: 1}\n"
        "backbone: {name: cav-mae, size: tiny}\n"
        "strategy: {name: half, share: 0.5}\n"
        "learner: {batch_size: 4, epochs: 1}\n"
    )
    result = command("-m", "avcl", "train", "run.yaml", "--dry-run", "--device", "cpu", path=site, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "strategy:\n  name: half\n  share: 0.5\n" in result.stdout
    assert "\n# steps: " in result.stdout


# ---- the trap: a clone that hides the installed package -------------------------------------------------


@pytest.mark.parametrize("editable", [True, False], ids=["editable", "not editable"])
def test_a_clone_that_hides_the_plugins_says_so_in_one_line(tmp_path: Path, editable: bool) -> None:
    shutil.copytree(Path(avcl.__file__).parent, tmp_path / "avcl", ignore=shutil.ignore_patterns("__pycache__"))
    # an editable install finds avcl.plugins wherever it was made from; without it there is none beside ./avcl
    forget = "" if editable else "sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in str(f)]; "
    start = f"import sys; {forget}sys.argv = ['avcl', 'list']; from avcl.cli.main import main; main()"
    result = command("-c", start, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"avcl: avcl in {tmp_path / 'avcl'} has no plugins: started here, this folder hides the installed avcl; "
        f"run `python -m pip install -e {tmp_path}`, or start from another folder\n"
    )
