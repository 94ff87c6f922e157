"""Arguments that several commands take, and how a shell completes them: without torch, and without plugins."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from avcl.config.bundled import bundled_files, find_file


def _run_files() -> list[str]:
    """Bundled ones and those in this folder; a path into another folder is left to the shell's own completion."""
    return [*bundled_files(), *(path.name for path in sorted(Path().glob("*.y*ml")))]


class Several(TyperCommand):
    """A command whose options may be followed by several values, as in ``--methods er stella --seeds 5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat such an option before each of its values."""
        repeated = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        words: list[str] = []
        current = ""
        for place, word in enumerate(args):
            if word.startswith("-") and not word.lstrip("-").isdecimal():
                current = word if word in repeated else ""
            elif current and args[place - 1] != current:
                words.append(current)
            words.append(word)
        return super().parse_args(ctx, words)


def components() -> list[str]:
    """Names of entry points: for bundled components the names that `avcl list` shows."""
    from importlib.metadata import entry_points

    return sorted({"learner", "memory", "run", "checkpoint", *entry_points(group="avcl").names})


Config = Annotated[
    Path,
    typer.Argument(
        callback=find_file,
        autocompletion=_run_files,
        help="Run file (YAML), or the name of a bundled one that `avcl init --list` shows.",
        show_default=False,
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        min=1, help="Processes that share every batch, one device each; several machines: torchrun -m avcl ..."
    ),
]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in learner.lr=1e-4.", show_default=False),
]
Method = Annotated[
    str,
    typer.Option(
        "--strategy",
        metavar="NAME",
        autocompletion=components,
        help="Another method than the file's, with its own settings: those that the file has for it, else defaults.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Clips of one forward pass.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read clips; 0 for none beside this one.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default=False)]
Name = Annotated[
    str,
    typer.Argument(
        autocompletion=components,
        help="A name that `avcl list` shows; learner, memory, checkpoint or run for the settings of these sections.",
        show_default=False,
    ),
]
Bundled = Annotated[
    str, typer.Argument(autocompletion=lambda: list(bundled_files()), help="Name of a bundled run file.")
]
Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUNS...",
        help="Run folders, folders of run folders, or patterns in quotes, such as 'runs/er-*'.",
        show_default=False,
    ),
]
