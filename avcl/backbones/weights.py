"""avcl's own weights files: safetensors whose metadata names the backbone and its settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from avcl.backbones.protocol import Backbone
from avcl.errors import UserError
from avcl.utils.atomic import replacing

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """The content of a weights file: the backbone's name and settings, and a state dict for each module.

    ``preprocessing``: settings of how recordings become the clips it was trained on; None where the file does not say.
    """

    source: Path
    name: str
    settings: dict[str, Any]
    states: dict[str, dict[str, Tensor]]
    preprocessing: dict[str, Any] | None = None

    def fill(self, backbone: Backbone) -> dict[str, Tensor]:
        """Load the backbone's weights; returns the tensors of further modules by full name, a learner's ``initial``."""
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

    Its metadata are the backbone's name, its settings and its ``preprocessing``.

    Equal weights and settings give equal bytes.
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
    if backbone.preprocessing is not None:
        about["preprocessing"] = json.dumps(dict(backbone.preprocessing))
    content = save(tensors, about)
    # The library writes tensors in a fixed order, but metadata in one that changes from call to call.
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start]) | {"__metadata__": about}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(content)[start:])


def load_weights(path: str | Path) -> Weights:
    """Read a file of ``save_weights``. Nothing is ever unpickled."""
    tensors, about = read_safetensors(path)
    if about.get("format") != "avcl":
        raise UserError(f"{path}: not written by avcl; convert it with `avcl weights import`")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        states.setdefault(prefix, {})[rest] = value
    try:
        name, settings = about["name"], dict(json.loads(about["settings"]))
        preprocessing = dict(json.loads(about["preprocessing"])) if "preprocessing" in about else None
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"{path}: corrupt: no name and settings of a backbone in its metadata; write it again"
        ) from None
    if "backbone" not in states:
        raise UserError(f"{path}: corrupt: no backbone, only {', '.join(states) or 'nothing'}; write it again")
    return Weights(Path(path), name, settings, states, preprocessing)


def load_state(module: nn.Module, state: State, source: str | Path) -> None:
    """Load ``state`` into ``module``; UserError names what is missing, unexpected or of another shape."""
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    wrong += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        raise UserError(
            f"{source}: does not fit {type(module).__name__}: {first_few(wrong)}; "
            "build it with the settings that the weights were made with"
        )
    module.load_state_dict(dict(state))


def first_few(parts: Iterable[str]) -> str:
    """``"a, b, c, d and 8 more"``."""
    known = list(parts)
    return ", ".join(known[:4]) + (f" and {len(known) - 4} more" if len(known) > 4 else "")


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file by name, and its metadata."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None
