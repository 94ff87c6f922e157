"""avcl's own weights on disk: safetensors files that say what they are the weights of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avcl.backbones.protocol import Backbone
from avcl.errors import UserError
from avcl.utils.atomic import aside_of

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """What ``save_weights`` wrote: the backbone's name and settings, and one state for each module by prefix."""

    source: Path
    name: str
    settings: dict[str, Any]
    states: dict[str, dict[str, Tensor]]

    def fill(self, backbone: Backbone) -> dict[str, Tensor]:
        """Fill the backbone; returns the tensors of further modules by full name, a learner's ``initial``."""
        try:
            load_state(backbone, self.states["backbone"], self.source)
        except UserError as error:
            own = backbone.settings()
            other = ", ".join(f"{key}={value}" for key, value in self.settings.items() if own.get(key) != value)
            raise UserError(f"{error}: {other}" if other else str(error)) from None
        further = {prefix: state for prefix, state in self.states.items() if prefix != "backbone"}
        return {f"{prefix}.{key}": value for prefix, state in further.items() for key, value in state.items()}


def save_weights(path: str | Path, backbone: Backbone, extra: Mapping[str, nn.Module | State] | None = None) -> None:
    """Write a safetensors file: the backbone under ``backbone.``, each further module under its own name.

    It is written aside and renamed when it is whole.
    """
    path = Path(path)
    states = {"backbone": backbone.state_dict()} | {
        name: part.state_dict() if isinstance(part, nn.Module) else part for name, part in (extra or {}).items()
    }
    tensors = {
        f"{prefix}.{key}": value.detach().contiguous()
        for prefix, state in states.items()
        for key, value in state.items()
    }
    about = {"format": "avcl", "name": backbone.name, "settings": json.dumps(backbone.settings())}
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.touch()
            mode = aside.stat().st_mode
            save_file(tensors, aside, metadata=about)
            aside.chmod(mode)  # new safetensors makes files that nobody but their owner can read
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be written ({str(error).partition('] ')[2] or error})") from None


def load_weights(path: str | Path) -> Weights:
    """Read what ``save_weights`` wrote. Nothing is ever unpickled."""
    tensors, about = read_safetensors(path)
    if about.get("format") != "avcl":
        raise UserError(f"{path}: not written by avcl; `avcl weights import` makes what avcl reads of it")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        states.setdefault(prefix, {})[rest] = value
    try:
        name, settings = about["name"], dict(json.loads(about["settings"]))
    except (KeyError, ValueError, TypeError):
        raise UserError(f"{path}: damaged: it does not say what it is the weights of; make it anew") from None
    if "backbone" not in states:
        raise UserError(f"{path}: damaged: it has no backbone, only {', '.join(states) or 'nothing'}; make it anew")
    return Weights(source=Path(path), name=name, settings=settings, states=states)


def load_state(module: nn.Module, state: State, source: str | Path) -> None:
    """Fill ``module`` from ``state``; every name and every shape must agree, else one line says which do not."""
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    wrong += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(
            f"{source}: does not fit {type(module).__name__}: {', '.join(wrong[:4])}{more}; "
            "build it with the settings that the weights were made with"
        )
    module.load_state_dict(dict(state))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file by name, and what it says about itself."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None
