"""``avcl bench``: what the methods' training steps, reading of clips, and parts of plugins take on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from avcl.cli.arguments import Device, Several

# Commands import what they need when they run: `avcl --help` and completion must not wait for torch.


class Benches(TyperGroup):
    """Its own commands, and behind any other name what a plugin brings."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, "NAME")


bench_app = typer.Typer(
    cls=Benches,
    invoke_without_command=True,
    help="Measure this machine: the methods' training steps side by side (also without a command), reading of clips.",
)


@bench_app.callback()
def _begin(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        training()


@bench_app.command(cls=Several)
def training(
    strategies: Annotated[
        list[str],
        typer.Option(
            "--strategies",
            metavar="NAME[,KEY=VALUE]...",
            help="Methods, each with settings of its own if it is to have some: all stella,backbone.visible_of=kept. "
            "(default: all)",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    sizes: Annotated[
        list[str],
        typer.Option(
            "--sizes",
            metavar="tiny|small|base...",
            help="Sizes of the backbone: tiny on rendered clips as they are, the others on clips of the published "
            "shape. (default: tiny)",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every method, one after the other.")] = 5,
    batch_size: Annotated[
        int,
        typer.Option(
            min=0, help="Current clips of a step; 0 for 32 at tiny, 4 at small, 2 at base, on a GPU 9 for both."
        ),
    ] = 0,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of all methods, as in learner.precision=bf16.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    workers: Annotated[int, typer.Option(min=0, help="Loader processes of each method.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of weights and draws.")] = 0,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Time of the processor, not on the wall: for a busy machine.")
    ] = False,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file for all that was measured.", show_default=False)] = None,
) -> None:
    """Clips per second, peak memory, passes and multiply-adds of a training step, method by method, stage by stage.

    As Table 2 of the STELLA paper: all methods in one process, turn by turn, with a full replay buffer.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages, read when torch is loaded

    from avcl.bench.tables import sheets
    from avcl.bench.training import TrainingBench
    from avcl.utils.atomic import write_json
    from avcl.utils.console import write

    bench = TrainingBench(
        strategies=strategies or ["all"],
        sizes=sizes or ["tiny"],  # type: ignore[arg-type]
        rounds=rounds,
        batch_size=batch_size or None,
        device=device,
        seed=seed,
        workers=workers,
        cpu_time=cpu_time,
        sets=sets,
    )
    result = bench.measure()
    if out:
        write_json(out, result)
    write(*(sheet.table(title) for title, sheet in sheets(result)))
    if out:
        write(f"Everything is in {out}")


@bench_app.command()
def data(
    clips: Annotated[int, typer.Option(min=1, help="Clips of each kind.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is read.")] = 3,
) -> None:
    """Bytes a clip, and clips read in a second of processor time: from files, and from stores made of them."""
    from avcl.bench.data_road import measure_roads

    measure_roads(clips, rounds)


@bench_app.command(cls=Several)
def processes(
    strategies: Annotated[
        list[str], typer.Option("--strategies", metavar="NAME...", help="Methods. (default: er stella stella-plus)")
    ] = [],  # noqa: B006
    processes: Annotated[int, typer.Option(min=2, help="Processes, each with its share of the cores.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each turn.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each, one after the other.")] = 3,
    out: Annotated[Path | None, typer.Option(help="JSON file for all that was measured.", show_default=False)] = None,
) -> None:
    """Steps per second of several processes beside one with as many threads, at the same whole batch, on this CPU."""
    from avcl.bench.processes import measure_processes
    from avcl.utils.atomic import write_json
    from avcl.utils.console import write

    result = measure_processes(strategies or ["er", "stella", "stella-plus"], processes, steps, rounds)
    for name, found in result["strategies"].items():
        one, many = found["steps_per_second"]
        write(f"{name}: 1 process {one:.2f} steps/s, {processes} processes {many:.2f} steps/s, {found['ratio']:.2f} x")
    if out:
        write_json(out, result)
        write(f"Everything is in {out}")


@bench_app.command(
    "NAME", context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def plugin(ctx: typer.Context) -> None:
    """A bench that a plugin brings, with its own options: `selection`, of STELLA's ops."""
    from avcl.registry import registry

    registry().bench(str(ctx.info_name))(ctx.args)
