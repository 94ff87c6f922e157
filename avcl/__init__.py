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
    from avcl.errors import AvclError as AvclError
    from avcl.errors import BadClip as BadClip
    from avcl.errors import HiddenError as HiddenError
    from avcl.errors import PluginError as PluginError
    from avcl.errors import SettingsError as SettingsError
    from avcl.errors import UserError as UserError
    from avcl.experiment.run import Run as Run
    from avcl.hookspecs import hookimpl as hookimpl
    from avcl.memory import Memory as Memory
    from avcl.scenario import Scenario as Scenario
    from avcl.settings import Component as Component
    from avcl.strategy import Rehearsal as Rehearsal
    from avcl.strategy import Strategy as Strategy
    from avcl.training.learner import Learner as Learner

    __version__: str

# Where each public name lives. It is loaded on first use (PEP 562), so that `import avcl` and `avcl --help`
# import no torch and no Avalanche; the imports above are for type checkers and editors.
_HOME = {
    "AvclError": "avcl.errors",
    "Backbone": "avcl.backbones.protocol",
    "BadClip": "avcl.errors",
    "CavMae": "avcl.backbones.cavmae",
    "Clip": "avcl.clip",
    "Component": "avcl.settings",
    "Grid": "avcl.clip",
    "HiddenError": "avcl.errors",
    "Learner": "avcl.training.learner",
    "Masks": "avcl.clip",
    "Memory": "avcl.memory",
    "Output": "avcl.clip",
    "PluginError": "avcl.errors",
    "Rehearsal": "avcl.strategy",
    "Run": "avcl.experiment.run",
    "Scenario": "avcl.scenario",
    "SettingsError": "avcl.errors",
    "Shape": "avcl.clip",
    "Strategy": "avcl.strategy",
    "UserError": "avcl.errors",
    "hookimpl": "avcl.hookspecs",
}
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
