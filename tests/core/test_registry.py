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
from typing import Any

import pytest

import avcl
from avcl.errors import BadClip, HiddenError, PluginError, StoppedError, UserError
from avcl.registry import Registry, blamed
from avcl.strategy import Strategy

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
NOWHERE = "(of no distribution)"


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``plugins(one=source, ...)``: the registry of plugin modules ``plugin_one``, ...; a list may name one twice."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(*names: str, **sources: str) -> Registry:
        for name, source in sources.items():
            (tmp_path / f"plugin_{name}.py").write_text(source)
        points = [EntryPoint(name, f"plugin_{name}", "avcl") for name in (*sources, *names)]
        found = Registry(points)
        monkeypatch.setattr("avcl.registry.registry", lambda: found)
        return found

    yield make
    for module in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[module]


def test_a_plugin_is_found_and_says_where_it_is_from(plugins) -> None:
    registry = plugins(one=GOOD.format(name="one"))
    (plugin,) = registry.plugins
    assert (plugin.name, plugin.module, plugin.error, plugin.hooks) == ("one", "plugin_one", None, ("strategies",))
    assert str(plugin) == f"plugin_one {NOWHERE}"
    cls = registry.find("strategies", "one")
    assert cls is sys.modules["plugin_one"].Good
    assert list(registry.offers("strategies")) == [(plugin, cls)]
    assert list(registry.offers("scenarios")) == registry.broken == []


def test_an_unknown_name_suggests_the_nearest(plugins) -> None:
    registry = plugins(**{name: GOOD.format(name=name) for name in ("stella", "er", "derpp")})
    for kind, name, told in (
        ("strategies", "stela", "unknown strategy 'stela'; did you mean 'stella'?"),
        ("strategies", "xyz", "unknown strategy 'xyz'; allowed: derpp, er, stella"),
        ("scenarios", "er", "unknown scenario 'er'"),
    ):
        with pytest.raises(UserError) as caught:
            registry.find(kind, name)
        assert str(caught.value) == told


def test_an_unknown_name_tells_of_broken_plugins_in_the_same_line(plugins) -> None:
    registry = plugins(er=GOOD.format(name="er"), a="import a_library_that_nobody_has\n", b="1 / 0\n")
    with pytest.raises(UserError) as caught:
        registry.find("strategies", "err")
    assert str(caught.value) == (
        "unknown strategy 'err'; did you mean 'er'?; broken plugins: "
        f"plugin_a {NOWHERE}: ModuleNotFoundError: No module named 'a_library_that_nobody_has'; "
        f"plugin_b {NOWHERE}: ZeroDivisionError: division by zero"
    )


def component(hook: str, cls: str, body: str, decorator: str = "@dataclass(kw_only=True)\n") -> str:
    """A plugin that offers one class."""
    return f"{HEAD}{decorator}class A({cls}):\n {body}\n@hookimpl\ndef {hook}(): return [A]"


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
            "strategies() returned <class 'avcl.strategy.Strategy'>; must be a list of classes",
        ),
        (HEAD + "@hookimpl\ndef strategies(): return [3]", "strategies() returned 3, which is not a subclass of"),
        (HEAD + "@hookimpl\ndef strategies(): return [1 / 0]", "ZeroDivisionError: division by zero"),
        (
            component("strategies", "Scenario", "name = 'a'"),
            "strategies() returned A, which is not a subclass of avcl.Strategy",
        ),
        (component("strategies", "Strategy", "pass"), 'strategies() returned A, which has no name; set name = "..."'),
        (
            component("strategies", "Strategy", "name = 'a'\n size: int = 3", decorator=""),
            "strategies() returned A, which is not decorated with @dataclass(kw_only=True)",
        ),
        (
            component("strategies", "Strategy", "name = 'a'\n size: int = 3", decorator="@dataclass\n"),
            "strategies() returned A, which is not decorated with @dataclass(kw_only=True)",
        ),
        (
            component("backbones", "Backbone", "name = 'a'"),
            "backbones() returned A, a torch module that cannot be hashed; decorate it with "
            "@dataclass(kw_only=True, eq=False)",
        ),
        (
            component("strategies", "Strategy", "name = 'a'\n size: 'Cuont' = 3"),
            "NameError: name 'Cuont' is not defined",
        ),
    ],
)
def test_a_broken_plugin_says_why_and_others_go_on(plugins, source: str, error: str) -> None:
    registry = plugins(good=GOOD.format(name="good"), bad=source)
    assert registry.find("strategies", "good").name == "good"
    (broken,) = registry.broken
    assert broken.module == "plugin_bad"
    assert broken.error.startswith(error)
    assert "\n" not in broken.error


def test_the_traceback_of_a_broken_plugin_is_in_the_debug_log(plugins, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="avcl.registry"):
        plugins(bad="def load():\n    return 1 / 0\nload()\n")
    assert f"plugin plugin_bad {NOWHERE} is broken" in caplog.text
    assert "in load\n    return 1 / 0" in caplog.text


def test_two_classes_of_one_name_name_both_modules_when_asked_for(plugins) -> None:
    registry = plugins(**{name: GOOD.format(name=same) for name, same in zip("abc", ("x", "x", "y"), strict=True)})
    assert registry.broken == []
    assert registry.find("strategies", "y").name == "y"
    told = f"strategy 'x' is offered twice: by plugin_a {NOWHERE} and by plugin_b {NOWHERE}; uninstall one"
    assert (registry.conflict("strategies", "x"), registry.conflict("strategies", "y")) == (told, None)
    with pytest.raises(PluginError) as caught:
        registry.find("strategies", "x")
    assert str(caught.value) == told


def test_a_class_that_two_plugins_share_is_no_conflict(plugins) -> None:
    two = "from avcl import hookimpl\nfrom plugin_one import Good\n@hookimpl\ndef strategies(): return [Good]"
    registry = plugins(one=GOOD.format(name="same"), two=two)
    assert registry.find("strategies", "same") is sys.modules["plugin_one"].Good


def test_one_module_counts_once(plugins) -> None:
    registry = plugins("one", one=GOOD.format(name="one"))
    assert [plugin.error for plugin in registry.plugins] == [None, "plugin_one is an entry point twice"]
    assert registry.find("strategies", "one").name == "one"


# ---- what fails when it is called -----------------------------------------------------------------------

MAKES = """
from avcl import hookimpl
from avcl.errors import UserError
from avcl.compat import BaseLogger
from avcl.metrics import LossTerms
@hookimpl
def metrics(run): return (LossTerms(every) for every in (run.seed, {metric}))
@hookimpl
def loggers(): return [BaseLogger() for _ in range({logger})]
@hookimpl
def doctor(): yield "what", "{doctor}" or 1 + ""
"""
RUN: Any = SimpleNamespace(seed=7)


def test_every_plugin_is_asked_with_the_run(plugins) -> None:
    registry = plugins(
        one=MAKES.format(metric=1, logger=1, doctor="well"), two=MAKES.format(metric=2, logger=2, doctor="ill")
    )
    assert [metric.every for metric in registry.metrics(RUN)] == [7, 2, 7, 1]
    assert len(registry.loggers(RUN)) == 3
    assert registry.doctor() == [("what", "ill"), ("what", "well")]


def test_a_hook_that_fails_is_named_with_its_plugin(plugins) -> None:
    bad = MAKES.format(metric="1 / 0", logger="'two\\nlines'", doctor="")
    registry = plugins(good=MAKES.format(metric=1, logger=1, doctor="well"), bad=bad)
    with pytest.raises(PluginError) as caught:
        registry.metrics(RUN)
    assert str(caught.value) == f"plugin plugin_bad {NOWHERE} failed in metrics: ZeroDivisionError: division by zero"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(PluginError, match=r"failed in loggers: TypeError: 'str' object cannot be interpreted"):
        registry.loggers(RUN)
    (_, broken), well = registry.doctor()
    assert broken.startswith(f"broken: plugin plugin_bad {NOWHERE} failed in doctor: TypeError: unsupported operand")
    assert well == ("what", "well")


def test_what_a_hook_makes_must_fit(plugins) -> None:
    registry = plugins(bad=HEAD + "@hookimpl\ndef metrics(): return [3]\n@hookimpl\ndef loggers(): return 4\n")
    with pytest.raises(PluginError, match=r"^plugin plugin_bad .*: metrics\(\) returned 3, which is no PluginMetric$"):
        registry.metrics(RUN)
    with pytest.raises(PluginError, match=r"failed in loggers: TypeError: 'int' object is not iterable$"):
        registry.loggers(RUN)


LASTING = """
class Lasting(LossTerms):
    def results(self): return {}
class Whole(Lasting):
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
"""


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("Lasting()", "has results but no state_dict, load_state_dict; resuming needs them"),
        ("Whole(), Whole()", "has the name of another one: 'train/loss'; change its __str__"),
    ],
)
def test_a_metric_that_lasts_has_a_state_and_a_name_of_its_own(plugins, made: str, told: str) -> None:
    registry = plugins(
        bad=f"{HEAD}from avcl.metrics import LossTerms{LASTING}@hookimpl\ndef metrics(): return [{made}]"
    )
    with pytest.raises(PluginError) as caught:
        registry.metrics(RUN)
    cls = made.partition("(")[0]
    assert str(caught.value) == f"metric {cls!r} (of no distribution, module plugin_bad) {told}"


class Own(Strategy):
    """In no plugin: of somebody's script."""


def test_a_verb_that_fails_is_named_with_its_origin(plugins) -> None:
    registry = plugins(one=GOOD.format(name="one") + "\nclass Speed: pass\n")
    one, here = registry.find("strategies", "one")(), f"class Own, module {__name__}"
    cause = ValueError("two\nlines")
    for component, named in (
        (one, "strategy 'one' (of no distribution, module plugin_one)"),
        (sys.modules["plugin_one"].Speed(), "object 'Speed' (of no distribution, module plugin_one)"),
        (Own(), f"strategy 'Own' ({here})"),
    ):
        with pytest.raises(PluginError) as caught, blamed(component, "penalty"):
            raise cause
        assert str(caught.value) == f"{named} failed in penalty: ValueError: two lines"
        assert caught.value.__cause__ is cause
    with pytest.raises(PluginError, match=r"failed in prepare: HiddenError: hidden$"), blamed(one, "prepare"):
        raise HiddenError("hidden")
    with pytest.raises(PluginError, match=r"failed in prepare: AssertionError$"), blamed(one, "prepare"):
        raise AssertionError


@pytest.mark.parametrize(
    "error",
    [UserError("yours"), StoppedError("stopped"), BadClip("a.mp4", "silent"), KeyboardInterrupt(), SystemExit(3)],
)
def test_what_is_for_the_user_or_the_loop_is_nobodys_fault(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, blamed(Own(), "penalty"):
        raise error
    assert caught.value is error


def test_nothing_is_looked_up_until_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up():
        raise PluginError("nothing can be found")

    monkeypatch.setattr("avcl.registry.registry", look_up)
    with blamed(Own(), "penalty"):
        pass
    told = r"^strategy 'Own' \(class Own, module .*\) failed in penalty: KeyError: 1$"
    with pytest.raises(PluginError, match=told), blamed(Own(), "penalty"):
        raise KeyError(1)


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


@pytest.fixture
def command(installed: Path, tmp_path: Path):
    """``command(*words)``: Python beside those packages, in an empty folder."""

    def command(*words: str, path: Path | None = installed) -> subprocess.CompletedProcess[str]:
        unwanted = ("PYTHONPATH", "AVCL_DEBUG", "FORCE_COLOR")
        environment = {key: value for key, value in os.environ.items() if key not in unwanted}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        options: Any = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path, "timeout": 240}
        return subprocess.run([sys.executable, *words], **options)

    return command


@pytest.fixture
def train(command, tmp_path: Path):
    """``train(strategy, *options)``: one task of a few clips."""

    def train(strategy: str, *options: str, path: Path, before: tuple[str, ...] = ()):
        (tmp_path / "run.yaml").write_text(
            "scenario: {name: synthetic, tasks: 1, classes: 2, train_clips: 2, eval_clips: 1}\n"
            "backbone: {name: cav-mae, size: tiny}\n"
            f"strategy: {strategy}\n"
            "learner: {batch_size: 4, epochs: 1}\n"
        )
        return command("-m", "avcl", *before, "train", "run.yaml", "--device", "cpu", *options, path=path)

    return train


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


def test_the_list_shows_what_is_broken_and_ends_well(command) -> None:
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


def test_training_with_a_third_party_strategy_survives_broken_plugins(installed: Path, tmp_path: Path, train) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    (site / "avcl_twin.py").write_text("raise RuntimeError('not even this one')\n")
    result = train("{name: half, share: 0.5}", "--dry-run", path=site)
    assert (result.returncode, result.stderr) == (0, "")
    assert "strategy:\n  name: half\n  share: 0.5\n" in result.stdout
    assert "\n# steps: " in result.stdout


def test_a_plugin_that_fails_in_a_run_ends_it_in_one_line(installed: Path, train) -> None:
    result = train("finetune", "--set", "seed=13", path=installed)
    assert (result.returncode, result.stdout) == (2, "")
    told = "plugin avcl_broken_late (avcl-broken 0.3) failed in metrics: ZeroDivisionError: division by zero"
    assert result.stderr == f"avcl: {told}\n"


def test_debug_shows_where_a_plugin_failed(installed: Path, train) -> None:
    result = train("late", "--dry-run", path=installed, before=("--debug",))
    assert result.returncode == 1
    told = "strategy 'late' (avcl-broken 0.3, module avcl_broken_late) failed in penalty: AttributeError: "
    assert told in result.stderr
    assert 'in penalty\n    return {"extra": self.never_made}' in result.stderr


# ---- the trap: a clone that hides the installed package -------------------------------------------------


@pytest.mark.parametrize("editable", [True, False], ids=["editable", "not editable"])
def test_a_clone_that_hides_the_plugins_says_so_in_one_line(command, tmp_path: Path, editable: bool) -> None:
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
