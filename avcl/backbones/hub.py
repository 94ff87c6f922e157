"""Backbones in folders and on the Hugging Face Hub: settings and weights together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download

from avcl.backbones.weights import load_state, load_weights, save_weights
from avcl.settings import build

SETTINGS, WEIGHTS = "config.json", "model.safetensors"


class Pretrained(PyTorchModelHubMixin, library_name="avcl"):
    """Gives a backbone ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``.

    ``CavMae.from_pretrained("owner/name")`` takes a folder as well, and settings to change; every name and
    every shape must fit, where the mixin alone would let some go missing.
    """

    def _save_pretrained(self: Any, save_directory: Path) -> None:
        (save_directory / SETTINGS).write_text(json.dumps(self.settings(), indent=2))
        save_weights(save_directory / WEIGHTS, self)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **settings: Any,
    ) -> Self:
        path = Path(model_id) / WEIGHTS
        if not path.parent.is_dir():
            found = hf_hub_download(
                repo_id=model_id,
                filename=WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
            path = Path(found)
        backbone = build(cls, settings)
        load_state(backbone, load_weights(path).states["backbone"], path)
        return backbone
