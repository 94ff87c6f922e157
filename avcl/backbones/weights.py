"""Weights on disk: avcl's own safetensors files, and official checkpoints through explicit maps of names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from avcl.backbones import Backbone
from avcl.errors import UserError

if TYPE_CHECKING:
    from avcl.backbones.cavmae import CavMae

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
        load_state(backbone, self.states["backbone"], self.source)
        further = {prefix: state for prefix, state in self.states.items() if prefix != "backbone"}
        return {f"{prefix}.{key}": value for prefix, state in further.items() for key, value in state.items()}


def save_weights(path: str | Path, backbone: Backbone, extra: Mapping[str, nn.Module] | None = None) -> None:
    """Write a safetensors file: the backbone under ``backbone.``, each further module under its own name."""
    modules = {"backbone": backbone, **(extra or {})}
    tensors = {
        f"{prefix}.{key}": value.detach().contiguous()
        for prefix, module in modules.items()
        for key, value in module.state_dict().items()
    }
    about = {"format": "avcl", "name": backbone.name, "settings": json.dumps(backbone.settings())}
    save_file(tensors, path, metadata=about)


def load_weights(path: str | Path) -> Weights:
    """Read what ``save_weights`` wrote. Nothing is ever unpickled."""
    tensors, about = _read_safetensors(path)
    if about.get("format") != "avcl":
        raise UserError(f"{path}: not written by avcl: import it with load_cavmae or load_stella")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        states.setdefault(prefix, {})[rest] = value
    return Weights(source=Path(path), name=about["name"], settings=json.loads(about["settings"]), states=states)


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


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, ``.safetensors`` or ``.pth``; nothing but tensors is unpickled."""
    if Path(path).suffix == ".safetensors":
        return _read_safetensors(path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # the reader fails in any way that the bytes of a damaged file suggest
        raise UserError(
            f"{path}: not a checkpoint of tensors alone ({type(error).__name__}); "
            "avcl unpickles nothing else: save its state dict by itself"
        ) from None
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds a {type(state).__name__}, not names and tensors of a model")
    return state


def _read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None


def load_cavmae(backbone: CavMae, state: State, source: str | Path = "CAV-MAE checkpoint") -> None:
    """Fill a backbone of the form ``cav-mae`` from an official state dict; every name is accounted for."""
    _load_official(backbone, "cav-mae", _strip(state), source)


def load_stella(backbone: CavMae, state: State, source: str | Path = "STELLA checkpoint") -> dict[str, Tensor]:
    """Fill a backbone of the form ``stella``; returns the matching module's tensors under their official names."""
    state, matching = _strip(state), "avmatching_module."
    rest = {key.removeprefix(matching): state.pop(key) for key in list(state) if key.startswith(matching)}
    _load_official(backbone, "stella", state, source)
    return rest


# Official names of what a stream holds ({a}: a or v; {audio}: audio or video), by the start of ours.
STREAM = {
    "modality": "modality_{a}",
    "table": "pos_embed_{a}",
    "fusion_table": "inter_pos_embed_{a}",
    "decoder_modality": "decoder_modality_{a}",
    "decoder_table": "decoder_pos_embed_{a}",
    "embed.": "patch_embed_{a}.proj.",
    "blocks.": "blocks_{a}.",
    "norm.": "norm_{a}.",
}
HEAD = {"stella": "mae_score_{audio}.decoder.", "cav-mae": "decoder_pred_{a}."}
ELSEWHERE = {
    "fusion.": "blocks_u.",
    "mask_tokens.joint": "mask_token",
    "mask_tokens.audio": "mask_token_a",
    "mask_tokens.video": "mask_token_v",
}
NORMS = {".joint.": ".", ".audio.": "_a.", ".video.": "_v."}
# Official CAV-MAE gives every block three pairs of norms where one is used, and class tokens that nothing reads.
UNUSED = {
    "cav-mae": re.compile(r"(blocks_[av]|decoder_blocks)\.\d+\.norm[12]_[av]\.(weight|bias)|cls_token_(a|v|av)"),
    "stella": None,
}


def official_name(key: str, form: str) -> str:
    """How the official checkpoints of this form call our parameter ``key``."""
    starts = dict(ELSEWHERE)
    for kind in ("audio", "video"):
        for ours, theirs in (STREAM | {"head.": HEAD[form]}).items():
            starts[f"{kind}.{ours}"] = theirs.format(a=kind[0], audio=kind)
    for ours, theirs in starts.items():
        if key == ours or (ours.endswith(".") and key.startswith(ours)):
            key = theirs + key.removeprefix(ours)
            break
    for ours, theirs in NORMS.items():
        key = key.replace(ours, theirs)
    return key


def _strip(state: State) -> dict[str, Tensor]:
    """Without what wrappers put in front of the names: ``module.``, ``backbone.transformer.``."""
    return {key.removeprefix("module.").removeprefix("backbone.transformer."): v for key, v in state.items()}


def _load_official(backbone: CavMae, form: str, state: dict[str, Tensor], source: str | Path) -> None:
    if backbone.form != form:
        raise UserError(f"{source}: fits the form {form!r}, but the backbone has form = {backbone.form!r}")
    unused = UNUSED[form]
    state = {key: value for key, value in state.items() if not (unused and unused.fullmatch(key))}
    names = {official_name(key, form): key for key in backbone.state_dict()}
    ours = {names.get(name, name): value for name, value in state.items()}
    load_state(backbone, {key: _convert(backbone, key, value) for key, value in ours.items()}, source)


def _convert(backbone: CavMae, key: str, value: Tensor) -> Tensor:
    """An official tensor in our shape and order.

    Convolutions become linear layers on a patch's pixels. Official CAV-MAE transposes its spectrograms: it
    counts audio patches, and what is inside of them, frequency first; we count time first.
    """
    grid, patch = backbone.grid, backbone.patch
    frequency_first = backbone.form == "cav-mae" and key.startswith("audio.")
    if key.endswith(".embed.weight") and value.ndim == 4:
        order = "d c f t -> d (t f c)" if frequency_first else "d c p q -> d (p q c)"
        return rearrange(value, order)
    if frequency_first and key.startswith("audio.head.") and value.shape[0] == patch**2:
        return rearrange(value, "(f t) ... -> (t f) ...", f=patch)
    if key.endswith("table") and value.ndim == 3:
        if frequency_first and value.shape[1] == grid.audio:
            value = rearrange(value, "b (f t) d -> b (t f) d", f=grid.freqs)
        return value.squeeze(0)
    return value.flatten() if value.shape[:2] == (1, 1) else value
