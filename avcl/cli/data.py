"""``avcl data``: check the clips of a scenario, pre-decode them into a store, join the parts of a store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avcl.cli.arguments import Config, Sets
from avcl.errors import UserError

if TYPE_CHECKING:
    from avcl.data.file_scenario import FileScenario

# Commands import what they need when they run: `avcl --help` and completion must not wait for torch.

data_app = typer.Typer(no_args_is_help=True, help="Check a scenario's clips, and pre-decode them into a store.")


@data_app.command("check")
def data_check(
    config: Config,
    sets: Sets = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="JSON file for the list of all clips.", show_default=False)] = None,
) -> None:
    """Count found, missing, corrupt, silent, static, too short and duplicate clips per task and split.

    Every container is read, and decoded until something is heard and moves; `prepare` decodes all. A store is compared
    with its SHA-256.
    """
    from avcl.config.files import read_config

    raw = read_config(config, sets)

    from avcl.data.check import check_clips
    from avcl.utils.console import write

    report = check_clips(scenario_of_files(raw))
    write(report.table(), f"fingerprint {report.fingerprint}", *filter(None, [report.store]))
    if out:
        report.write(out)
        write(f"The list is in {out}")


@data_app.command("prepare")
def data_prepare(
    config: Config,
    out: Annotated[Path, typer.Option(help="Folder of the store.", show_default=False)],
    sets: Sets = [],  # noqa: B006
    shard: Annotated[str, typer.Option(metavar="I/N", help="Make the I-th of N parts, to be merged.")] = "1/1",
    rate: Annotated[float, typer.Option(help="Frames per second, 0.1 to 240.")] = 8.0,
    codec: Annotated[str, typer.Option(help="jpeg, or png (lossless).")] = "jpeg",
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality.")] = 90,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one per core.")] = 0,
) -> None:
    """Pre-decode every clip into a store, for `scenario.store`; resumable: rerun the same command."""
    from avcl.config.files import read_config

    share, _, parts = shard.partition("/")
    if not (shard.isascii() and share.isdecimal() and parts.isdecimal() and 1 <= int(share) <= int(parts)):
        raise UserError(f"--shard: invalid value {shard!r}: must be I/N, as in 1/8")
    if not 0.1 <= rate <= 240:  # nor is it no number at all
        raise UserError(f"--rate: invalid value {rate:g}: must be 0.1 to 240 frames per second")
    if codec not in ("jpeg", "png"):
        raise UserError(f"--codec: invalid value {codec!r}: must be jpeg or png")
    raw = read_config(config, sets)

    from avcl.data.store.prepare import pre_decode
    from avcl.utils.console import write

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options: Any = {"rate": rate, "codec": codec, "quality": quality, "workers": workers or cores}
    for line in pre_decode(scenario_of_files(raw), out, share=int(share), of=int(parts), **options):
        write(line)


@data_app.command("merge")
def data_merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders that `avcl data prepare --shard` made.")],
    out: Annotated[Path, typer.Option(help="Folder of the store.", show_default=False)],
) -> None:
    """Join the parts of a store, and complete it; resumable: rerun the same command."""
    from avcl.data.store.prepare import merge_parts
    from avcl.utils.console import write

    for line in merge_parts(parts, out):
        write(line)


def scenario_of_files(raw: Mapping[str, Any]) -> FileScenario:
    """The scenario of a configuration; UserError where it does not read files."""
    from avcl.config.build import scenario_of
    from avcl.data.file_scenario import FileScenario

    scenario = scenario_of(raw)
    if not isinstance(scenario, FileScenario):
        raise UserError(f"scenario: {scenario.name!r} reads no files; its clips need neither a check nor a store")
    return scenario
