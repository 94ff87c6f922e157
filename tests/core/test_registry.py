"""Plugins are found one by one, through entry points; whatever is broken stays with the plugin that broke it."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from avcl.errors import BadClip, HiddenError, PluginError, StoppedError, UserError
from avcl.registry import Registry, blamed
from avcl.strategy import Strategy

HEAD = """
from dataclasses import dataclass
from torch import nn
from avcl import Backbone, Evaluation, Scenario, Strategy, hookimpl
from pydantic import PositiveInt
"""
GOOD = f"""{HEAD}
@dataclass(kw_only=True)
class Good(Strategy):
    name = "{{name}}"
    size: PositiveInt = 1

@hookimpl
def strategies():
    return [Good]
"""
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


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("strategies", "stela", "unknown strategy 'stela'; did you mean 'stella'?"),
        ("strategies", "xyz", "unknown strategy 'xyz'; allowed: er, stella"),
        ("scenarios", "er", "unknown scenario 'er'"),
    ],
)
def test_an_unknown_name_suggests_the_nearest_and_tells_of_broken_plugins(plugins, kind, name, told) -> None:
    good = {name: GOOD.format(name=name) for name in ("stella", "er")}
    with pytest.raises(UserError) as caught:
        plugins(**good).find(kind, name)
    assert str(caught.value) == told
    with pytest.raises(UserError) as caught:
        plugins(**good, a="import a_library_that_nobody_has\n", b="1 / 0\n").find(kind, name)
    assert str(caught.value) == (
        f"{told}; broken plugins: "
        f"plugin_a {NOWHERE}: ModuleNotFoundError: No module named 'a_library_that_nobody_has'; "
        f"plugin_b {NOWHERE}: ZeroDivisionError: division by zero"
    )


def offering(body: str, base: str = "Strategy", hook: str = "strategies", decorator: str = "(kw_only=True)") -> str:
    """A plugin that offers one class."""
    decorated = decorator and f"@dataclass{decorator}\n"
    return f"{HEAD}{decorated}class A({base}):\n {body}\n@hookimpl\ndef {hook}(): return [A]"


SIZED = "name = 'a'\n size: int = 3"
HOOK = f"{HEAD}@hookimpl\ndef strategies(): return "


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_library_that_nobody_has", "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"),
        ("from avcl import nothing", "ImportError: cannot import name 'nothing' from 'avcl'"),
        ("def strategies(:\n", "SyntaxError: invalid syntax (plugin_bad.py, line 1)"),
        ("import sys; sys.exit('usage: this')", "SystemExit: usage: this"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        (f"{HEAD}@hookimpl\ndef strategys(): return []", "no hook is called 'strategys'; did you mean 'strategies'?"),
        (
            f"{HEAD}@hookimpl\ndef metrics(learner): return []",
            "PluginValidationError: Plugin 'plugin_bad' for hook 'metrics' hookimpl definition: metrics(learner)",
        ),
        (
            f"{HEAD}def strategies(): return []",
            "implements no hook; decorate one of backbones, benches, doctor, evaluations, loggers, metrics, scenarios, "
            "strategies with avcl.hookimpl",
        ),
        (f"{HOOK}Strategy", "strategies() returned <class 'avcl.strategy.Strategy'>; must be a list of classes"),
        (f"{HOOK}[3]", "strategies() returned 3, which is not a subclass of"),
        (f"{HOOK}[1 / 0]", "ZeroDivisionError: division by zero"),
        (offering("name = 'a'", "Scenario"), "strategies() returned A, which is not a subclass of avcl.Strategy"),
        (offering("pass"), 'strategies() returned A, which has no name; set name = "..."'),
        (
            offering(SIZED, decorator=""),
            "strategies() returned A, which is not decorated with @dataclass(kw_only=True)",
        ),
        (offering(SIZED, decorator="()"), "strategies() returned A, which is not decorated with @dataclass(kw_only="),
        (
            offering("name = 'a'", "Backbone", "backbones"),
            "backbones() returned A, a torch module that cannot be hashed; decorate it with "
            "@dataclass(kw_only=True, eq=False)",
        ),
        (
            offering("name = 'a'\n size: int", "Evaluation", "evaluations"),
            "evaluations() returned A, whose setting 'size' has no default; it is asked for by its name alone",
        ),
        (offering("name = 'a'\n size: 'Cuont' = 3"), "NameError: name 'Cuont' is not defined"),
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


def test_a_class_that_two_plugins_share_is_no_conflict_and_a_module_counts_once(plugins) -> None:
    two = "from avcl import hookimpl\nfrom plugin_one import Good\n@hookimpl\ndef strategies(): return [Good]"
    registry = plugins("one", one=GOOD.format(name="same"), two=two)
    assert [plugin.error for plugin in registry.plugins] == [None, None, "plugin_one is an entry point twice"]
    assert registry.find("strategies", "same") is sys.modules["plugin_one"].Good


# ---- what fails when it is called -----------------------------------------------------------------------

MAKES = """
from avcl import hookimpl
from avcl.errors import UserError
from avcl.compat import BaseLogger
from avcl.metrics import LossTerms
@hookimpl
def metrics(run): return (LossTerms(every=every) for every in (run.seed, {metric}))
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


def test_a_bench_is_found_by_its_name(plugins) -> None:
    offers = "@hookimpl\ndef benches(): return [('{0}', lambda words: ['{0}', *words])]\n"
    two = {name: HEAD + offers.format(name) for name in ("scores", "draws")}
    registry = plugins(**two, other=GOOD.format(name="other"))
    assert registry.bench("draws")(["--rounds", "3"]) == ["draws", "--rounds", "3"]  # type: ignore[func-returns-value]
    with pytest.raises(UserError, match=r"^unknown bench 'score'; did you mean 'scores'\?$"):
        registry.bench("score")
    bad = plugins(bad=HEAD + "@hookimpl\ndef benches(): return [1 / 0]\n")
    with pytest.raises(PluginError, match=r"plugin_bad .* failed in benches: ZeroDivisionError: division by zero$"):
        bad.bench("scores")


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
    bad = f"{HEAD}from avcl.metrics import LossTerms{LASTING}@hookimpl\ndef metrics(): return [{made}]"
    with pytest.raises(PluginError) as caught:
        plugins(bad=bad).metrics(RUN)
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
    with pytest.raises(PluginError, match=r"failed in prepare: SystemExit: 3$"), blamed(one, "prepare"):
        sys.exit(3)


@pytest.mark.parametrize(
    "error",
    [UserError("yours"), StoppedError("stopped"), BadClip("a.mp4", "silent"), KeyboardInterrupt()],
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
