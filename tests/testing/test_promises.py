"""The checks work without pytest and without assert statements."""

import subprocess
import sys

import pytest

from avcl import Strategy
from avcl.testing import BrokenPromise, backbone, check_strategy, metric, scenario, strategy

OFFENDERS = """
import importlib._bootstrap_external as external  # other people's modules need not be compiled once more
compiled = external.cache_from_source
external.cache_from_source = lambda path: compiled(path, optimization=1 if "avcl" in path else "")

from dataclasses import dataclass
import numpy, torch
from avcl.backbones.cavmae import CavMae
from avcl.metrics import Throughput
from avcl.testing import *

assert False, "a Python that asserts"

class Loud(Throughput):
    def __str__(self):
        return ""

class Blind(CavMae):
    def embed(self, clip):
        return super().embed(clip)[::-1][:1]

@dataclass(kw_only=True)
class Unnamed(Noise):
    task_names = ("one", "one")

class Liar(Strategy := __import__("avcl").Strategy):
    name = "liar"
    def log(self):
        return {"level": float("nan")}

for check, make in (
    (check_metric, Loud),
    (check_backbone, lambda: Blind(**small_backbone().settings())),
    (check_scenario, Unnamed),
    (check_strategy, Liar),
):
    try:
        check(make)
    except BrokenPromise as error:
        print(error)
"""


def test_python_without_asserts_catches_them_too():
    ran = subprocess.run([sys.executable, "-O", "-c", OFFENDERS], capture_output=True, text=True, timeout=240)
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert [line.partition(" breaks a promise (")[0] for line in lines] == [
        "metric ''",
        "backbone 'cav-mae'",
        "scenario 'noise'",
        "strategy 'liar'",
    ]
    assert [line.partition("): ")[2] for line in lines] == [
        "str() says ''; define __str__",
        "embed must return a pair (audio, video)",
        "task_names ('one', 'one') are not unique",
        "log() returned {'level': nan}; must be finite floats",
    ]


@pytest.mark.parametrize("module", [strategy, scenario, backbone, metric], ids=lambda module: module.__name__)
def test_every_promise_is_said_and_can_be_checked_alone(module):
    said = [promise.__doc__ for promise in module.PROMISES]
    assert all(said)
    assert len(set(said)) == len(said)


def test_what_cannot_be_made_or_is_of_another_kind_is_told():
    with pytest.raises(BrokenPromise, match=r"^strategy 'int' breaks a promise \(can be made\): is a int, no "):
        check_strategy(int)
    with pytest.raises(BrokenPromise, match=r"\(can be made\): TypeError: .*'no_such_setting'$"):
        check_strategy(lambda: Strategy(no_such_setting=1))
