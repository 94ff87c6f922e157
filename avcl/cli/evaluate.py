"""``avcl eval``: evaluations of a finished run or of any weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avcl.cli.arguments import BatchSize, Device, Sets, Workers, components
from avcl.config.bundled import find_file

if TYPE_CHECKING:
    from rich.table import Table

    from avcl.evaluation.protocol import Evaluation, Scores


def _found(path: Path | None) -> Path | None:
    return None if path is None else find_file(path)


def evaluate(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_WEIGHTS", help="Run folder, or a weights file.", show_default=False)
    ],
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...", autocompletion=components, help="Evaluations that `avcl list` shows.", show_default=False
        ),
    ],
    config: Annotated[
        Path | None,
        typer.Option(callback=_found, help="Run file whose scenario to use (default: the run's).", show_default=False),
    ] = None,
    sets: Sets = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for the scores (default: evaluations.json of the run folder).", show_default=False
        ),
    ] = None,
    device: Device = "",
    batch_size: BatchSize = 32,
    workers: Workers = 0,
) -> None:
    """Evaluate a finished run or any weights: each TASK trains what it needs on the frozen model, and scores it.

    Settings of a task: --set classification.epochs=5; of the scenario: --set scenario.eval_clips=8. Scores are added
    to evaluations.json in the run folder.
    """
    from avcl.experiment.evaluating import Evaluating
    from avcl.utils.console import write

    work = Evaluating(source, list(dict.fromkeys(tasks)), config, sets, out, device, batch_size, workers)
    for evaluation, found in work.scores():
        write(_table(evaluation, found))
    if work.out:
        write(f"Scores are in {work.out}")


def _table(evaluation: Evaluation, found: Scores) -> Table:
    """The scores of one evaluation beside chance."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, side in ((evaluation.name, "left"), ("score", "right"), ("chance", "right"), ("better", "left")):
        table.add_column(column, justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.caption, table.caption_justify = f"{found.clips:,} clips", "left"
    for row in _rows(found):
        table.add_row(*row)
    return table


def _rows(found: Scores) -> Iterator[tuple[str, str, str, str]]:
    for name, value in found.scores.items():
        chance = f"{found.chance[name]:.1f}" if name in found.chance else "-"
        yield name, f"{value:.1f}", chance, "lower" if name in found.lower_is_better else "higher"
