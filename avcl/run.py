"""A run: one experiment, its folder, its manifest."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from avcl import checkpoint, config, dist
from avcl.backbones import Backbone
from avcl.backbones.weights import load_weights, save_weights
from avcl.compat import CLScenario, EvaluationPlugin, benchmark_from_datasets, quiet_evaluator
from avcl.errors import UserError
from avcl.learner import Learner
from avcl.registry import registry
from avcl.report import matrix_table
from avcl.strategies import Strategy
from avcl.streams import Scenario, as_avalanche

log = logging.getLogger(__name__)

DISTRIBUTIONS = ("avcl", "torch", "torchaudio", "torchvision", "avalanche-lib", "timm", "av", "numpy")


class Run:
    """One experiment. ``train`` leaves in ``folder``:

    ``run.json`` (settings, command, versions, plugins) · TensorBoard events · ``results.json`` (the task
    matrix of every metric, written after every task) · ``weights.safetensors`` · ``checkpoint.pt`` (the
    whole state after every task) · ``README.md``.
    """

    def __init__(
        self,
        *,
        scenario: Scenario,
        backbone: Backbone,
        strategies: Sequence[Strategy],
        folder: str | Path,
        learner: Mapping[str, Any] | None = None,
        initial: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        device: str = "cpu",
        settings: Mapping[str, Any] | None = None,
    ):
        self.scenario, self.backbone, self.strategies = scenario, backbone, list(strategies)
        self.folder, self.seed, self.device = Path(folder), seed, device
        self.settings = dict(settings or {})
        self._learner_settings = dict(learner or {})
        self._initial = dict(initial or {})

    @classmethod
    def from_config(cls, raw: Mapping[str, Any]) -> Run:
        """The run that a configuration describes; SettingsError lists every mistake in it."""
        return cls(**config.resolve(raw).parts())
