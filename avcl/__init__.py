"""Continual audio-video pre-training: methods, streams and evaluations in one place."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avcl.backbones.cavmae import CavMae as CavMae
    from avcl.backbones.protocol import Backbone as Backbone
    from avcl.clip import Clip as Clip
    from avcl.clip import Grid as Grid
    from avcl.clip import Masks as Masks
    from avcl.clip import Output as Output
    from avcl.clip import Shape as Shape
    from avcl.data.preprocessing import Preprocessing as Preprocessing
    from avcl.errors import AvclError as AvclError
    from avcl.errors import BadClip as BadClip
    from avcl.errors import HiddenError as HiddenError
    from avcl.errors import PluginError as PluginError
    from avcl.errors import SettingsError as SettingsError
    from avcl.errors import UserError as UserError
    from avcl.evaluation.embedder import Embedder as Embedder
    from avcl.evaluation.protocol import Evaluation as Evaluation
    from avcl.evaluation.protocol import Frozen as Frozen
    from avcl.evaluation.protocol import Scores as Scores
    from avcl.experiment.run import Run as Run
    from avcl.hookspecs import hookimpl as hookimpl
    from avcl.memory import Memory as Memory
    from avcl.scenario import Scenario as Scenario
    from avcl.selection import Choice as Choice
    from avcl.selection import Selection as Selection
    from avcl.settings import Component as Component
    from avcl.strategy import Rehearsal as Rehearsal
    from avcl.strategy import Strategy as Strategy
    from avcl.training.learner import Learner as Learner
    from avcl.training.view import LearnerView as LearnerView

    __version__: str

# The same for Python, which loads a name on first use (PEP 562): `import avcl` and `avcl --help` import no torch.
_HOMES = {
    "avcl.backbones.cavmae": "CavMae",
    "avcl.backbones.protocol": "Backbone",
    "avcl.clip": "Clip Grid Masks Output Shape",
    "avcl.data.preprocessing": "Preprocessing",
    "avcl.errors": "AvclError BadClip HiddenError PluginError SettingsError UserError",
    "avcl.evaluation.embedder": "Embedder",
    "avcl.evaluation.protocol": "Evaluation Frozen Scores",
    "avcl.experiment.run": "Run",
    "avcl.hookspecs": "hookimpl",
    "avcl.memory": "Memory",
    "avcl.scenario": "Scenario",
    "avcl.selection": "Choice Selection",
    "avcl.settings": "Component",
    "avcl.strategy": "Rehearsal Strategy",
    "avcl.training.learner": "Learner",
    "avcl.training.view": "LearnerView",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("avcl")
    if name not in _HOME:
        raise AttributeError(f"module 'avcl' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})
