"""``avcl weights``: convert third-party checkpoints, and show weights files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from avcl.errors import UserError

# Commands import what they need when they run: `avcl --help` and completion must not wait for torch.

weights_app = typer.Typer(no_args_is_help=True, help="Convert third-party checkpoints, and show weights files.")


def _checked(out: Path) -> Path:
    if out.suffix != ".safetensors":
        raise UserError(f"--out: invalid value {str(out)!r}: must end in .safetensors")
    return out


WeightsFile = Annotated[
    Path, typer.Option("--out", callback=_checked, help="The .safetensors file to write.", show_default=False)
]


@weights_app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="A checkpoint file, or a model's name on the Hugging Face Hub.", show_default=False)
    ],
    out: WeightsFile,
    kind: Annotated[
        str, typer.Option(help="Type of the checkpoint: mae, cav-mae or stella.", show_default="detected")
    ] = "",
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the backbone: frames=8.", show_default=False),
    ] = [],  # noqa: B006
    zero_init: Annotated[
        bool,
        typer.Option("--zero-init", help="Zero-initialize what an MAE lacks, as STELLA's authors (default: random)."),
    ] = False,
) -> None:
    """Convert an MAE, CAV-MAE or STELLA checkpoint into initial weights for training."""
    from avcl.config.files import read_config

    if kind not in ("", "mae", "cav-mae", "stella"):
        raise UserError(f"--kind: invalid value {kind!r}: must be mae, cav-mae or stella")
    settings = read_config(sets=sets)

    from avcl.backbones.convert.convert import convert_checkpoint
    from avcl.utils.console import write

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one line of ours ends its retries
    found = convert_checkpoint(source, kind or None, settings, zero_init)  # type: ignore[arg-type]
    found.save(out)
    write(found.table(), found.summary(), f"{out} fits {found.usage()}")


@weights_app.command()
def show(
    file: Annotated[
        str, typer.Argument(help="A .safetensors file written by avcl, or a run folder.", show_default=False)
    ],
) -> None:
    """Show the settings of the backbone in a weights file, its preprocessing, and the parameters of each module."""
    from avcl.backbones.hub import locate
    from avcl.backbones.weights import load_weights
    from avcl.config.files import dump_config
    from avcl.utils.console import write

    found = load_weights(locate(file))
    said = {} if found.preprocessing is None else {"preprocessing": found.preprocessing}
    write(dump_config({"backbone": {"name": found.name, **found.settings}, **said}))
    for name, state in found.states.items():
        write(f"{name}: {len(state)} tensors, {sum(value.numel() for value in state.values()):,} parameters")
