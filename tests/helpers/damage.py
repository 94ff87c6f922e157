"""What breaks under a command: a plugin that raises where it is told to, a disk of a few pages, a run to break."""

import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.registry import registry

RUN = """
device: cpu
scenario: {name: faulty-scenario}
backbone: {name: faulty-backbone}
strategy: {name: faulty-strategy, memory: {capacity: 8}}
learner: {epochs: 1, batch_size: 8, eval_batch_size: 8}
metrics: [train/loss, retrieval]
loggers: [csv]
"""
"""A run of four steps on 2 x 16 random clips, of components that raise where their setting ``at`` says."""

VERBS = {
    "strategy": "__post_init__ begin prepare penalty observe end_task log state_dict full_bytes",
    "scenario": "__post_init__ clips benchmark",
    "backbone": "forward draw_masks embed settings",
    "metric": "before_training after_training_iteration after_eval results state_dict measured",
    "logger": "open log_single_metric after_eval close",
    "callback": "begin after_update after_eval state_dict",
    "evaluation": "evaluate",
    "clips": "__len__ __getitem__",
}
PROPERTIES = {"scenario": "shape preprocessing task_names fingerprint gallery_only"}

HEAD = """
from dataclasses import dataclass, field
from typing import Any, ClassVar
import torch
from avcl import Evaluation, Rehearsal, hookimpl
from avcl.backbones.cavmae import CavMae
from avcl.compat import BaseLogger, PluginMetric
from avcl.evaluation.protocol import Scores
from avcl.settings import Component
from avcl.testing.toys import Noise, NoiseClips
from avcl.training.callbacks import Callback

WRONG = {"ValueError": (ValueError, "two\\nlines"), "OSError": (FileNotFoundError, 2, "no such file", "mine.txt"),
         "memory": (torch.cuda.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB"),
         "SystemExit": (SystemExit, 3)}

class Base:
    def _fail(self, verb):
        if self.at == verb:
            kind, *about = WRONG[self.wrong]
            raise kind(*about)
    def measured(self): return {}
    def results(self): return {}
    def state_dict(self): return {}
    def load_state_dict(self, state): pass
    def close(self): pass
    def open(self, run): pass
    def log_metrics(self, values):
        for value in values:
            self.log_single_metric(value.name, value.value, value.x_plot)
    def __str__(self): return type(self).__name__

class Lost:
    def _lost(self, i):
        mine = (self.task, self.split, i) == (0, "train", self.scenario.nan)
        return {"frames": torch.full((2, 3, 32, 32), torch.nan)} if mine else {}

class Plain(Base):
    def reset(self): pass
    def result(self): pass
    def begin(self, learner, steps): pass
    def __getattr__(self, name):
        if name.startswith(("before_", "after_")):
            return lambda *args, **kwargs: None
        raise AttributeError(name)
"""
CLASSES = {
    "strategy": ("Rehearsal", "needs_boundaries = True"),
    "scenario": ("Noise", ""),
    "backbone": (
        "CavMae",
        "size: str = 'tiny'\n    dim: int = 24\n    heads: int = 2\n    depth: int = 1\n    fusion_depth: int = 1\n"
        "    decoder_dim: int = 16\n    decoder_heads: int = 2\n    decoder_depth: int = 1",
    ),
    "evaluation": ("Evaluation", ""),
}
TAIL = """
@hookimpl
def strategies(): return [Strategy]
@hookimpl
def scenarios(): return [Scenario]
@hookimpl
def backbones(): return [Backbone]
@hookimpl
def evaluations(): return [Evaluation_]
@hookimpl
def metrics(run): return [Metric()]
@hookimpl
def loggers(run): return [Logger()]
"""


MIXED = {
    "metric": "Component, Plain, PluginMetric",
    "logger": "Component, Plain, BaseLogger",
    "callback": "Plain, Callback",
}


def source():
    """The text of the plugin: every method is written out, so that a traceback names it."""
    parts = [HEAD]
    for kind, verbs in VERBS.items():
        base, body = CLASSES.get(kind, ("", ""))
        name = {"evaluation": "Evaluation_"}.get(kind, kind.title())
        args = "kw_only=True, eq=False" if kind in ("backbone", "callback", "metric", "logger") else "kw_only=True"
        head = f"@dataclass({args})\nclass {name}({base}):\n    name = 'faulty-{kind}'\n    {body}\n"
        settings = "    at: str = ''\n    wrong: str = 'ValueError'\n"
        if kind in MIXED:
            head = f"@dataclass({args})\nclass {name}({MIXED[kind]}):\n    name = 'faulty-{kind}'\n"
        if kind == "clips":
            head = "class Clips(Lost, NoiseClips):\n"
            settings = "".join(f"    {key} = property(lambda self: self.scenario.{key})\n" for key in ("at", "wrong"))
        if kind == "scenario":
            settings += "    nan: int = -1\n    called: str = ''\n"
        parts.append(head + settings)
        parts += [_method(kind, verb) for verb in verbs.split()]
        parts += ["    @property\n" + _method(kind, verb) for verb in PROPERTIES.get(kind, "").split()]
    return "\n".join(parts) + TAIL


def _method(kind, verb):
    rest = {
        ("scenario", "clips"): "return Clips(**vars(super().clips(*args)))",
        ("scenario", "task_names"): "return tuple(self.called + name for name in super().task_names)",
        ("clips", "__getitem__"): "return super().__getitem__(*args) | self._lost(*args)",
        ("strategy", "log"): "return {}",
        ("evaluation", "evaluate"): "return Scores(scores={'a': 1.0}, clips=1)",
        ("logger", "log_single_metric"): "pass",
        ("logger", "after_eval"): "pass",
    }.get((kind, verb))
    called = "" if kind in PROPERTIES and verb in PROPERTIES[kind].split() else "(*args, **kwargs)"
    rest = rest or f"return super().{verb}{called}"
    given = "" if not called else ", *args, **kwargs"
    return f"    def {verb}(self{given}):\n        Base._fail(self, {verb!r})\n        {rest}\n"


@pytest.fixture
def faulty(tmp_path_factory, monkeypatch):
    """Installs the plugin as the distribution ``calm-faults 0.3``, for this test."""
    home = tmp_path_factory.mktemp("installed")
    (home / "calm_faults.py").write_text(source())
    about = home / "calm_faults-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: calm-faults\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text("[avcl]\nfaults = calm_faults\n")
    monkeypatch.syspath_prepend(home)
    registry.cache_clear()
    yield home
    registry.cache_clear()
    sys.modules.pop("calm_faults", None)


def avcl(*words):
    """Exit code and what the command said on standard error, in this process."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stderr


def run_file(folder, more="", text=RUN):
    """A run file."""
    path = folder / "run.yaml"
    path.write_text(text + textwrap.dedent(more))
    return path


@contextmanager
def mounted(folder, size):
    """A file system of so many bytes at ``folder``; skips where it cannot be mounted."""
    folder.mkdir(exist_ok=True)
    asked = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        while os.path.ismount(folder):  # one mount may lie over another
            subprocess.run(["umount", "-l", str(folder)], check=True)
