"""The command line: its commands, and nothing but commands."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from avcl.cli import launch
from avcl.cli.arguments import Bundled, Config, Device, Method, Name, Processes, Sets, Several
from avcl.cli.bench import bench_app
from avcl.cli.data import data_app
from avcl.cli.embed import embed, search
from avcl.cli.evaluate import evaluate
from avcl.cli.results import plot, report, results
from avcl.cli.sweep import sweep
from avcl.cli.weights import WeightsFile, weights_app
from avcl.errors import StoppedError, UserError
from avcl.utils import lines

# A command imports what it needs, when it needs it: neither `avcl --help` and completion nor a typing error in a
# file should wait for torch and plugins.


class Commands(TyperGroup):
    """Ends with one line and code 2 where the user can mend it; ``--debug`` shows where it was found."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except StoppedError as stopped:
            if launch.number() == 0:
                lines.say(str(stopped))
        except KeyboardInterrupt:
            lines.say("interrupted")
            raise typer.Exit(130) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, typer.Exit | typer.Abort):
                raise
            told = _told(error)
            if not told:
                launch.tell(error, f"{type(error).__name__}: {error}")
                raise
            if ctx.params["debug"]:
                lines.say(traceback.format_exc())
            if not launch.tell(error, told):
                lines.say(told)
            raise typer.Exit(2) from None


def _told(error: BaseException) -> str:
    """One line for what a user can mend; empty for a fault of avcl, and for what is no fault: a reader that left."""
    if "RANK" in os.environ and launch.lost(error):
        return "another process has ended: its error says why"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return ""
    from avcl.registry import line_of

    return line_of(error)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """Run the command line."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        import avcl

        typer.echo(f"avcl {avcl.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="AVCL_DEBUG", help="Show tracebacks and debug messages.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Continual audio-video pre-training: methods, streams and evaluations in one place."""
    quiet = logging.ERROR if launch.number() else logging.INFO
    lines.log(logging.DEBUG if debug else quiet)


@app.command()
def train(
    config: Config,
    strategy: Method = "",
    sets: Sets = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="Run folder (default: runs/STRATEGY-SCENARIO).", show_default=False)] = "",
    device: Device = "",
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the run folder's checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan after one training step; write nothing.")
    ] = False,
    processes: Processes = 1,
) -> None:
    """Train over a stream of tasks and evaluate after each task."""
    from avcl.config.files import dump_config, read_config

    raw = _overridden(read_config(config, sets, strategy), out=out, device=device)
    if not dry_run:
        _spread(processes)

    from avcl.config.build import method_settings
    from avcl.experiment.run import Run
    from avcl.report.tables import run_tables
    from avcl.utils.console import write

    try:
        run = Run.from_config(raw)
    except UserError:
        if dry_run:  # often it is the data that is missing: what does not depend on it
            with contextlib.suppress(UserError):
                write(dump_config(method_settings(raw)))
        raise
    if dry_run:
        write(dump_config(run.settings), *(f"# {key}: {value}" for key, value in run.dry_run().items()))
        return
    results = run.train(resume=resume)
    if launch.number() == 0:
        write(*run_tables(results), f"Everything is in {run.folder}")


@app.command()
def pretrain(
    config: Config,
    out: WeightsFile,
    strategy: Method = "",
    sets: Sets = [],  # noqa: B006
    device: Device = "",
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Freeze the backbone; train the strategies' modules alone.")
    ] = False,
    processes: Processes = 1,
) -> None:
    """Pre-train on the scenario's pre-training clips and write initial weights for `avcl train`."""
    from avcl.config.files import read_config

    raw = _overridden(read_config(config, sets, strategy), device=device)
    _spread(processes)

    from avcl.experiment import pretraining
    from avcl.experiment.run import Run

    pretraining.pretrain(Run.from_config(raw), out, frozen)


app.command("eval")(evaluate)


@app.command()
def init(
    name: Bundled = "run",
    out: Annotated[Path | None, typer.Option(help="File to write (default: NAME.yaml).", show_default=False)] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the bundled run files; write nothing.")] = False,
) -> None:
    """Copy a bundled run file, to edit and train with."""
    from avcl.config.bundled import bundled_files, copy_file
    from avcl.utils.console import write

    if list_:
        write(*(f"{name:<23}{path.read_text().partition(chr(10))[0][2:]}" for name, path in bundled_files().items()))
    else:
        write(f"{copy_file(name, out or Path(f'{name}.yaml'))} is written; edit it, then `avcl train` it")


@app.command("list")
def list_() -> None:
    """List what is installed, where it comes from, and which plugins are broken."""
    from avcl.cli.plugins import show_all
    from avcl.registry import registry

    show_all(registry())


@app.command()
def show(name: Name) -> None:
    """Show what a component is, its paper, and its settings with type, default and help."""
    from avcl.cli.plugins import show_one
    from avcl.registry import registry

    show_one(registry(), name)


app.command()(embed)
app.command()(search)
app.command(cls=Several)(sweep)
app.command()(results)
app.command()(plot)
app.command()(report)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(weights_app, name="weights")


@app.command()
def doctor() -> None:
    """Report what runs on this machine, and why: versions, CUDA, decoders, plugins, native ops."""
    from avcl.cli.doctor import show
    from avcl.registry import registry

    show(registry())


def _spread(processes: int) -> None:
    """Go on in so many processes, unless this is one of them."""
    if processes > 1 and "RANK" not in os.environ:
        raise typer.Exit(launch.launch(processes, sys.argv[1:]))


def _overridden(raw: dict[str, Any], **options: str) -> dict[str, Any]:
    """``raw`` with the options that were given."""
    return raw | {key: value for key, value in options.items() if value}
