"""Backbones in files, in folders and on the Hugging Face Hub: settings and weights together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from avcl.backbones.weights import load_state, load_weights, save_weights
from avcl.errors import UserError
from avcl.settings import build
from avcl.utils.atomic import write_json

SETTINGS, WEIGHTS, RUN_WEIGHTS = "config.json", "model.safetensors", "weights.safetensors"


class Pretrained(PyTorchModelHubMixin, library_name="avcl"):
    """Gives a backbone ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``."""

    def _save_pretrained(self: Any, save_directory: Path) -> None:
        write_json(save_directory / SETTINGS, self.settings())
        save_weights(save_directory / WEIGHTS, self)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **settings: Any,
    ) -> Self:
        """Load a backbone from ``"owner/name"`` on the Hub, from a folder (a run's too), or from any weights file.

        Its settings are those in the file; ``settings`` change them. Every name and every shape must fit.
        """
        path = locate(
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        weights = load_weights(path)
        backbone = build(cls, weights.settings | settings)
        load_state(backbone, weights.states["backbone"], path)
        backbone.preprocessing = weights.preprocessing
        return backbone


def locate(source: str | Path, **options: Any) -> Path:
    """The weights file that ``source`` names: itself, the one in a folder or a run's, or one fetched from the Hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        for name in (WEIGHTS, RUN_WEIGHTS):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds no weights: neither {WEIGHTS} nor {RUN_WEIGHTS}, which a run writes at its end")
    if path.is_file():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) or path.suffix in (".safetensors", ".pth", ".pt"):
        raise UserError(f"{path}: no such file")
    try:
        return Path(hf_hub_download(repo_id=str(source), filename=WEIGHTS, **options))
    except (OSError, ValueError, EntryNotFoundError) as error:
        raise UserError(
            f"{source}: no such file or folder, and no {WEIGHTS} of that name comes from the Hugging Face Hub "
            f"({type(error).__name__}); fetch it where there is a network, and give the file"
        ) from None
