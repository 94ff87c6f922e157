"""Evaluations of a finished run, or of any weights: the model from its files, the scores into ``evaluations.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from avcl.backbones.protocol import Backbone
from avcl.backbones.weights import Weights, load_state, load_weights
from avcl.config.build import find_device, scenario_of, strategies_of
from avcl.config.bundled import bundled_files
from avcl.config.files import read_config, with_sets
from avcl.errors import SettingsError, UserError, nearest
from avcl.evaluation.protocol import Evaluation, Frozen, Scores, evaluated
from avcl.experiment.run_folder import RunFolder
from avcl.registry import registry
from avcl.scenario import Scenario
from avcl.settings import build
from avcl.training.learner import Learner
from avcl.utils import atomic

FILE = "evaluations.json"
SECTIONS = ("scenario", "strategy", "seed", "device")
"""What ``--set`` may change besides the settings of the evaluations that are asked for."""


@dataclass
class Evaluating:
    """The evaluations ``names`` of ``source``, a run folder or a weights file; UserError where something does not fit.

    ``config``: run file whose scenario is used in place of the run's; for weights, the bundled ``run`` by default ·
    ``sets``: assignments such as ``classification.epochs=5`` and ``scenario.eval_clips=8`` · ``out``: file that gets
    the scores, by default the run folder's ``evaluations.json``, none for weights.
    """

    source: Path
    names: Sequence[str]
    config: Path | None = None
    sets: Sequence[str] = ()
    out: Path | None = None
    device: str = ""
    batch_size: int = 32
    workers: int = 0

    def __post_init__(self) -> None:
        classes = {name: registry().find("evaluations", name) for name in self.names}
        folder = RunFolder(self.source) if self.source.is_dir() else None
        run = folder.manifest["settings"] if folder and (folder / "run.json").exists() else None
        self.weights = load_weights(self._weights_file(folder))
        self.out = self.out or (folder / FILE if folder else None)
        raw = self._settings(run)
        raw = with_sets(raw, [text for text in self.sets if not self._own(text)])
        own = with_sets({}, [text for text in self.sets if self._own(text)])
        self.scenario = scenario_of(raw)
        self.elsewhere = run is not None and {"name": self.scenario.name, **self.scenario.settings()} != run["scenario"]
        self.evaluations = self._made(classes, own)
        self.seed = raw.get("seed") or 0
        try:
            device = torch.device(find_device(self.device or raw.get("device") or "auto"))
        except UserError as error:
            raise UserError(f"device: {error}") from None
        self.model = trained(self.weights, self.scenario, raw, device, batch_size=self.batch_size, workers=self.workers)

    def scores(self) -> Iterator[tuple[Evaluation, Scores]]:
        """Each evaluation and what it found, written down before the next one begins."""
        _known(self.out)  # what cannot be added to is told before the work
        for evaluation in self.evaluations:
            found = evaluated(evaluation, self.model)
            if self.out:
                known = _known(self.out) | {self._key(evaluation): self._entry(evaluation, found)}
                self.out.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(self.out, known)
            yield evaluation, found

    def _settings(self, run: Mapping[str, Any] | None) -> dict[str, Any]:
        """Of the run, else of the run file; of both, the run with the file's scenario."""
        if run is None:
            return read_config(self.config or bundled_files()["run"])
        return {**run, **({"scenario": read_config(self.config).get("scenario", "synthetic")} if self.config else {})}

    def _weights_file(self, folder: RunFolder | None) -> Path:
        if folder is None:
            return self.source
        path = folder / "weights.safetensors"
        if not path.is_file():
            told = "the run has not come to its end" if (folder / "run.json").exists() else "no run folder"
            raise UserError(
                f"{self.source}: holds no weights.safetensors: {told}; name a finished run or a weights file"
            )
        return path

    def _own(self, assignment: str) -> bool:
        """Whether an assignment is to one of the evaluations; UserError where it is to nothing that is used here."""
        first = assignment.partition("=")[0].partition(".")[0]
        if first not in (*self.names, *SECTIONS):
            raise UserError(
                f"--set {assignment}: nothing is called {first!r}{nearest(first, (*self.names, *SECTIONS))}"
            )
        return first in self.names

    def _made(self, classes: Mapping[str, type[Evaluation]], own: Mapping[str, Any]) -> list[Evaluation]:
        """The evaluations with their settings; the mistakes in all of them are reported together."""
        made, wrong = [], []
        for name, cls in classes.items():
            values = own.get(name, {})
            if not isinstance(values, Mapping):
                wrong.append(f"{name}: invalid value {values!r}: must be settings, as in {name}.epochs=5")
                continue
            try:
                made.append(cls.for_scenario(self.scenario, values, name))
            except SettingsError as error:
                wrong += error.mistakes
        if wrong:
            raise SettingsError(wrong)
        return made

    def _key(self, evaluation: Evaluation) -> str:
        return f"{evaluation.name} on {self.scenario.name}" if self.elsewhere else evaluation.name

    def _entry(self, evaluation: Evaluation, found: Scores) -> dict[str, Any]:
        return {
            "settings": evaluation.settings(),
            **found.about(),
            "weights": str(self.source),
            "scenario": {"name": self.scenario.name, **self.scenario.settings()},
            "seed": self.seed,
        }


def trained(
    weights: Weights, scenario: Scenario, raw: Mapping[str, Any], device: torch.device, **options: Any
) -> Frozen:
    """The model in a weights file, with the modules that the strategies of ``raw`` bring; ``options`` of ``Frozen``."""
    backbone: Backbone = build(registry().find("backbones", weights.name), weights.settings, "backbone")
    load_state(backbone, weights.states["backbone"], weights.source)
    expected, found = backbone.grid.shape(backbone.patch), scenario.shape
    if expected != found._replace(frames=min(found.frames, expected.frames)):  # more of them can be shown in parts
        differing = ", ".join(
            f"{key} {mine} instead of {theirs}"
            for key, mine, theirs in zip(found._fields, found, expected, strict=True)
            if mine != theirs
        )
        raise UserError(
            f"{weights.source}: was trained on other clips than scenario {scenario.name!r} has: {differing}; "
            "name a run file of fitting clips with --config, or change the scenario with --set scenario.KEY=VALUE"
        )
    backbone.to(device).eval()
    modules, learner = {}, Learner(backbone=backbone, strategy=strategies_of(raw), device=device)
    for name, module in learner.named_modules():
        if name in weights.states:
            load_state(module, weights.states[name], weights.source)
            modules[name] = module.eval()
    return Frozen(
        backbone=backbone,
        scenario=scenario,
        strategies=learner.strategies,
        modules=modules,
        device=device,
        seed=raw.get("seed") or 0,
        **options,
    )


def _known(path: Path | None) -> dict[str, Any]:
    """What a file of scores holds already; UserError where it is none."""
    if path is None or not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or choose another file with --out") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no scores by evaluation; choose another file with --out")
    return content
