"""`avcl sweep`: one run file, several methods, values and seeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from avcl.cli.arguments import Config, Device, Sets
from avcl.cli.results import Against


def sweep(
    config: Config,
    methods: Annotated[
        list[str],
        typer.Option("--methods", metavar="NAME...", help="Methods (default: the file's own).", show_default=False),
    ] = [],  # noqa: B006
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="KEY=VALUE,...",
            help="Settings to vary, every combination; those of the strategy where a method has them.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    seeds: Annotated[
        list[str],
        typer.Option(
            "--seeds",
            metavar="N | A,B,...",
            help="How many, counted from 0, or which ones; `20,` for one. (default: 3)",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    budget: Annotated[
        str, typer.Option(metavar="steps|bytes|passes", help="What is made equal for all methods.")
    ] = "steps",
    sets: Sets = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of the run folders, METHOD[-KEY=VALUE]-SEED.")] = Path("runs/sweep"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each on its share of the CPU cores.")] = 1,
    slurm: Annotated[
        list[str],
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE...",
            help="Submit each run as a job of Slurm's, with these options of submitit's: timeout_min=600 "
            "slurm_partition=gpu gpus_per_node=1.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    against: Against = "",
    device: Device = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; train and write nothing.")] = False,
) -> None:
    """Train methods x values x seeds in parallel, resume what was stopped, and compare the results.

    The same command goes on where it was stopped: what is finished is not run again.
    """
    from avcl.config.files import read_choices, with_sets
    from avcl.errors import UserError, nearest

    cluster = with_sets({}, slurm, "--slurm") if slurm else None
    choices = read_choices(vary, "--vary")
    chosen = seeds_of(seeds)
    kind = _budget(budget)

    from avcl.experiment import budgets
    from avcl.experiment.sweep import plan, refuse_others, run_all, table
    from avcl.report.documents import for_terminal
    from avcl.report.runs import find_runs, streams_of
    from avcl.utils import lines
    from avcl.utils.console import write

    names = [name for word in methods for name in word.split(",") if name]
    if names and against and against.split()[0] not in names:
        raise UserError(f"--against {against}: not among --methods{nearest(against, names)}")
    sets = [*sets, *([f"device={device}"] if device else [])]
    planned, note = budgets.under(kind, plan(config, names, choices, chosen, out, sets))
    refuse_others(planned)
    told = [f"budget: equal {kind} ({note['meaning']})"]
    measured = [budgets.table(note["methods"]).table("measured on the first steps")] if "methods" in note else []
    if dry_run:
        write(table(planned).table(f"{len(planned)} runs"), *told, *measured)
        return
    about = {"file": str(config), "vary": choices, "seeds": chosen, "budget": note, "command": sys.argv[1:]}
    wrong = run_all(planned, jobs, about, out, cluster)
    if finished := [job.folder.path for job in planned if job.state == "finished"]:
        write(*told, *measured, *for_terminal(streams_of(find_runs(finished)), against))
    if wrong:
        for name, why in wrong.items():
            lines.say(f"{name} failed: {why}")
        raise typer.Exit(2)


def seeds_of(words: list[str]) -> list[int]:
    """``5``: 0 to 4; ``20,21`` or ``20 21``: these; three seeds where nothing is said."""
    from avcl.errors import UserError

    text = ",".join(words) or "3"
    parts = [part for part in text.split(",") if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds {text}: must be how many, as 5, or which ones, as 20,21")
    numbers = [int(part) for part in parts]
    if "," not in text:
        numbers = list(range(numbers[0]))
    if not numbers:
        raise UserError(f"--seeds {text}: must be 1 or more")
    return list(dict.fromkeys(numbers))


def _budget(word: str) -> Literal["steps", "bytes", "passes"]:
    from avcl.errors import UserError, nearest

    kinds: tuple[Literal["steps", "bytes", "passes"], ...] = ("steps", "bytes", "passes")
    for kind in kinds:
        if word == kind:
            return kind
    raise UserError(f"--budget {word}: unknown budget{nearest(word, kinds)}")
