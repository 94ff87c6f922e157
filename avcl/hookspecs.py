"""The whole plugin contract: which components exist. When they run is not pluggy's business.

A plugin is a module named by an entry point in the group ``avcl`` that implements any of these hooks::

    from avcl import hookimpl

    @hookimpl
    def strategies():
        return [MyStrategy]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from avalanche.evaluation import PluginMetric
    from avalanche.logging import BaseLogger

    from avcl.backbones.protocol import Backbone
    from avcl.evaluation.protocol import Evaluation
    from avcl.experiment.run import Run
    from avcl.scenario import Scenario
    from avcl.strategy import Strategy

PROJECT = "avcl"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Strategy classes: methods of continual pre-training."""


@hookspec
def scenarios() -> Iterable[type[Scenario]]:  # type: ignore[empty-body]
    """Scenario classes: streams of tasks."""


@hookspec
def backbones() -> Iterable[type[Backbone]]:  # type: ignore[empty-body]
    """Backbone classes: from clips to loss terms and embeddings."""


@hookspec
def evaluations() -> Iterable[type[Evaluation]]:  # type: ignore[empty-body]
    """Evaluation classes: protocols on trained weights, for ``avcl eval`` and, by name, at the end of tasks."""


@hookspec
def metrics(run: Run) -> Iterable[PluginMetric]:  # type: ignore[empty-body]
    """Avalanche metrics for this run; one with ``results()`` has ``state_dict`` and ``load_state_dict``, too."""


@hookspec
def loggers(run: Run) -> Iterable[BaseLogger]:  # type: ignore[empty-body]
    """Avalanche loggers for this run; asked on rank zero only."""


@hookspec
def doctor() -> Iterable[tuple[str, str]]:  # type: ignore[empty-body]
    """Lines for ``avcl doctor``: what of the plugin depends on the machine, and which form of it runs and why."""


@hookspec
def benches() -> Iterable[tuple[str, Callable[[Sequence[str]], None]]]:  # type: ignore[empty-body]
    """Benches of the plugin's own parts for ``avcl bench NAME``: names, and functions of command-line arguments."""
