"""The command line: the verbs, and nothing but verbs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from avcl.errors import StoppedError, UserError

# A verb imports what it needs, when it needs it: neither `avcl --help` and completion nor a typing error in a
# file should wait for torch and plugins.


class Verbs(TyperGroup):
    """Ends with one line and code 2 where the user can mend it; ``--debug`` shows where it was found."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            if ctx.params["debug"]:
                raise
            typer.echo("avcl: " + str(error).replace("\n", "\n      "), err=True)
            raise typer.Exit(2) from None
        except StoppedError as stopped:
            typer.echo(f"avcl: {stopped}", err=True)
            raise typer.Exit(130) from None
        except KeyboardInterrupt:
            typer.echo("avcl: interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False)

Config = Annotated[Path, typer.Argument(help="A YAML file of settings.", show_default=False)]
Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, as in learner.lr=1e-4.", show_default=False),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default=False)]


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
    debug: Annotated[bool, typer.Option("--debug", envvar="AVCL_DEBUG", help="Show tracebacks and details.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Continual audio-video pre-training: methods, streams and evaluations in one place."""
    logging.basicConfig(format="avcl: %(message)s")
    logging.getLogger("avcl").setLevel(logging.DEBUG if debug else logging.INFO)


@app.command()
def train(
    config: Config,
    sets: Sets = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="The folder to make.", show_default=False)] = "",
    device: Device = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build all, take one step, say what is to come.")] = False,
) -> None:
    """Train over a stream of tasks and evaluate after each of them."""
    from avcl.config.files import dump, load

    raw = _overridden(load(config, sets), out=out, device=device)

    from avcl.cli.plugins import write
    from avcl.experiment.run import Run
    from avcl.report.tables import matrix_table

    run = Run.from_config(raw)
    if dry_run:
        write(dump(run.settings), *(f"# {key}: {value}" for key, value in run.dry_run().items()))
        return
    results = run.train(resume=resume)
    for metric in results["metrics"].values():
        for key, measure in metric.get("measures", {}).items():
            if key.endswith("R@10"):
                write(matrix_table(f"{key}, percent", results["tasks"], measure))
    write(f"Everything is in {run.folder}")


@app.command()
def pretrain(
    config: Config,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.", show_default=False)],
    sets: Sets = [],  # noqa: B006
    device: Device = "",
    frozen: Annotated[bool, typer.Option("--frozen", help="Train the strategies' modules, not the backbone.")] = False,
) -> None:
    """Train on the scenario's pre-training clips and write the weights to start from."""
    from avcl.config.files import load

    _checked_safetensors(out)
    raw = _overridden(load(config, sets), device=device)

    from avcl.experiment import pretraining
    from avcl.experiment.run import Run

    pretraining.pretrain(Run.from_config(raw), out, frozen)


@app.command("list")
def list_() -> None:
    """List what is installed, where it comes from, and which plugins are broken."""
    from avcl.cli.plugins import show_all
    from avcl.registry import registry

    show_all(registry())


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name that `avcl list` shows.", show_default=False)]) -> None:
    """Show what a component is, the paper behind it, and its settings."""
    from avcl.cli.plugins import show_one
    from avcl.registry import registry

    show_one(registry(), name)


data = typer.Typer(no_args_is_help=True, help="Look into a scenario's clips, and decode them once for all.")
app.add_typer(data, name="data")


@data.command("check")
def data_check(
    config: Config,
    sets: Sets = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="A JSON file for the list of all clips.", show_default=False)] = None,
) -> None:
    """Count what is found, missing, unreadable, mute, still, short or double, per task and split.

    It reads every container, and decodes until something is heard and moves; `prepare` decodes all.
    """
    from avcl.config.files import load

    raw = load(config, sets)

    from avcl.cli.plugins import write
    from avcl.data.check import check, scenario_of_files

    report = check(scenario_of_files(raw))
    write(report.table(), f"fingerprint {report.fingerprint}")
    if out:
        report.write(out)
        write(f"The list is in {out}")


@data.command("prepare")
def data_prepare(
    config: Config,
    out: Annotated[Path, typer.Option(help="The folder of the store.", show_default=False)],
    sets: Sets = [],  # noqa: B006
    shard: Annotated[str, typer.Option(metavar="I/N", help="Make the I-th of N parts; merge them.")] = "1/1",
    rate: Annotated[float, typer.Option(help="Frames a second, 0.1 to 240.")] = 8.0,
    codec: Annotated[str, typer.Option(help="jpeg, or png, which loses nothing.")] = "jpeg",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEG.")] = 90,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one on each core.")] = 0,
) -> None:
    """Decode every clip once into a store that `scenario.store` reads; the same command goes on after a stop."""
    from avcl.config.files import load

    share, _, parts = shard.partition("/")
    if not (shard.isascii() and share.isdecimal() and parts.isdecimal() and 1 <= int(share) <= int(parts)):
        raise UserError(f"--shard: {shard!r} is not allowed: I/N is needed, as in 1/8")
    if not 0.1 <= rate <= 240:  # nor is it no number at all
        raise UserError(f"--rate: {rate:g} is not allowed: 0.1 to 240 frames a second are needed")
    if codec not in ("jpeg", "png"):
        raise UserError(f"--codec: {codec!r} is not allowed: jpeg or png is needed")
    raw = load(config, sets)

    from avcl.cli.plugins import write
    from avcl.data.check import prepare, scenario_of_files

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options: Any = {"rate": rate, "codec": codec, "quality": quality, "workers": workers or cores}
    for line in prepare(scenario_of_files(raw), out, share=int(share), of=int(parts), **options):
        write(line)


@data.command("merge")
def data_merge(
    parts: Annotated[list[Path], typer.Argument(help="Folders that `avcl data prepare --shard` made.")],
    out: Annotated[Path, typer.Option(help="The folder of the store.", show_default=False)],
) -> None:
    """Bring the parts of a store together, and complete it."""
    from avcl.cli.plugins import write
    from avcl.data.check import merged

    for line in merged(parts, out):
        write(line)


weights = typer.Typer(no_args_is_help=True, help="Look into weights files, and make them of other people's.")
app.add_typer(weights, name="weights")


@weights.command("import")
def weights_import(
    source: Annotated[str, typer.Argument(help="A file, or a name on the Hugging Face Hub.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.", show_default=False)],
    kind: Annotated[str, typer.Option(help="mae, cav-mae or stella.", show_default="what the names tell")] = "",
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the backbone: frames=8.", show_default=False),
    ] = [],  # noqa: B006
    zeros: Annotated[bool, typer.Option("--zeros", help="Begin what an MAE has not at zero, as the authors.")] = False,
) -> None:
    """Make weights to start from of an MAE, or of the authors' CAV-MAE or STELLA checkpoints."""
    from avcl.config.files import load

    _checked_safetensors(out)
    if kind not in ("", "mae", "cav-mae", "stella"):
        raise UserError(f"--kind: {kind!r} is not allowed: mae, cav-mae or stella is needed")
    settings = load(sets=sets)

    from avcl.backbones.convert.importing import import_weights
    from avcl.cli.plugins import write

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one line of ours ends its retries
    found = import_weights(source, kind or None, settings, zeros)  # type: ignore[arg-type]
    found.save(out)
    write(found.table(), found.summary(), f"{out} fits {found.usage()}")


@weights.command("show")
def weights_show(file: Annotated[Path, typer.Argument(help="A file that avcl wrote.", show_default=False)]) -> None:
    """Show the settings that a weights file was made with, and what it holds."""
    from avcl.backbones.weights import load_weights
    from avcl.cli.plugins import write
    from avcl.config.files import dump

    found = load_weights(file)
    write(dump({"backbone": {"name": found.name, **found.settings}}))
    for name, state in found.states.items():
        write(f"{name}: {len(state)} tensors, {sum(value.numel() for value in state.values()):,} numbers")


@app.command()
def doctor() -> None:
    """Say what runs on this machine and why: versions, CUDA, decoders, plugins, native ops."""
    from avcl.cli.doctor import show
    from avcl.registry import registry

    show(registry())


def _overridden(raw: dict[str, Any], **options: str) -> dict[str, Any]:
    """``raw`` with the options that were given."""
    return raw | {key: value for key, value in options.items() if value}


def _checked_safetensors(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise UserError(f"--out: {str(out)!r} is not allowed: a name that ends in .safetensors is needed")
