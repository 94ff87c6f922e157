"""What differs between two manifests, and which of it may."""

import re
from pathlib import Path

import pytest

from avcl.errors import UserError
from avcl.experiment.manifest import resumed


def settings(**given):
    return {"settings": given}


@pytest.mark.parametrize(
    ("then", "now", "told"),
    [
        ({"device": "cuda"}, {"device": "cpu"}, 'device: "cuda" in run.json, "cpu" now'),
        (settings(), settings(a=None), "a: not set in run.json, null now"),
        (settings(betas=[0.9, 1]), settings(betas=(0.9, 0.5)), "betas: [0.9, 1] in run.json, [0.9, 0.5] now"),
        (settings(s={"name": "a", "x": 1}), settings(s=[{"name": "b"}]), "s: a in run.json, [b] now"),
        (settings(s=[{"name": "a", "x": 1}]), settings(s=[{"name": "a", "x": 2}]), "s.0.x: 1 in run.json, 2 now"),
        (settings(output=1), settings(output=2), "output: 1 in run.json, 2 now"),
    ],
)
def test_what_differs_is_named(then, now, told):
    with pytest.raises(UserError, match=f"^{re.escape(told)}\n--resume may change out, loggers, learner.workers, "):
        resumed(then, now, Path("run.json"))


@pytest.mark.parametrize(
    ("then", "now", "changed"),
    [
        ({"device": "cuda:0"}, {"device": "cuda:1"}, {"device": ['"cuda:0"', '"cuda:1"']}),
        (settings(device="auto"), settings(device="cpu"), {"device": ['"auto"', '"cpu"']}),
        ({"plugins": {"a": "a (1)"}}, {"plugins": {"a": "a (2)"}}, {"plugins.a": ['"a (1)"', '"a (2)"']}),
        (settings(lr=1, betas=[1, 2]), settings(lr=1.0, betas=(1, 2)), {}),
    ],
)
def test_what_may_differ_is_noted(then, now, changed):
    content = resumed({**then, "resumed": [1]}, now, Path("run.json"))
    assert content["resumed"][0] == 1 and content["resumed"][1]["changed"] == changed
    assert {key: content[key] for key in then} == then
