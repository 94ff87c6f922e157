"""Commands that show what finished runs found: `avcl results`, `avcl plot`, `avcl report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from avcl.cli.arguments import Runs

Against = Annotated[
    str,
    typer.Option(
        metavar="METHOD", help="Test every other method against this one, paired by seed.", show_default=False
    ),
]
Out = Annotated[Path | None, typer.Option(help="File to write instead of the terminal.", show_default=False)]


def results(
    runs: Runs,
    against: Against = "",
    csv: Annotated[bool, typer.Option("--csv", help="As CSV: every number in full, a row each.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX tables (booktabs).")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown tables.")] = False,
    out: Out = None,
) -> None:
    """Compare finished runs by method: retrieval, average and forgetting over seeds, beside chance."""
    from avcl.errors import UserError
    from avcl.report.documents import FORMS, for_terminal
    from avcl.report.runs import find_runs, streams_of
    from avcl.utils.atomic import write_text
    from avcl.utils.console import write

    wanted = [form for form, given in (("csv", csv), ("latex", latex), ("markdown", markdown)) if given]
    if len(wanted) > 1:
        raise UserError(f"--{wanted[0]}, --{wanted[1]}: one form at a time")
    streams = streams_of(find_runs(runs))
    if out is None and not wanted:
        write(*for_terminal(streams, against))
        return
    text = FORMS[wanted[0] if wanted else form_of(out)](streams, against)
    if out is None:
        write(text.rstrip("\n"))
    else:
        write_text(out, text)
        write(f"{out} is written")


def form_of(path: Path | None) -> str:
    """The form that a file's name asks for."""
    from avcl.errors import UserError

    forms = {".csv": "csv", ".tex": "latex", ".md": "markdown"}
    suffix = path.suffix if path else ""
    if suffix not in forms:
        raise UserError(f"--out {path}: must end in {', '.join(forms)}, or come with --csv, --latex or --markdown")
    return forms[suffix]


def plot(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="File to write: .png, .svg or .pdf.")] = Path("figure.svg"),
    kind: Annotated[
        str,
        typer.Option(
            metavar="matrix|curves|setting",
            help="Task matrices, curves over tasks and steps (default), or a score against a setting (--against).",
            show_default=False,
        ),
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="A setting that varies, as strategy.keep_video; or bytes, passes of a sweep under a budget.",
            show_default=False,
        ),
    ] = "",
    measure: Annotated[
        str, typer.Option(metavar="WAY/SCORE", help="a2v, v2a or both, and R@1, R@5, R@10, R@mean or median_rank.")
    ] = "both/R@mean",
) -> None:
    """Draw finished runs: task matrices, curves of average and forgetting, a score against a setting."""
    from avcl.errors import UserError, nearest
    from avcl.report.drawing import SUFFIXES, save
    from avcl.report.figures import KINDS, draw
    from avcl.report.runs import find_runs, streams_of
    from avcl.utils.console import write

    if kind and kind not in KINDS:
        raise UserError(f"--kind {kind}: unknown kind{nearest(kind, KINDS)}")
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out}: must end in {', '.join(SUFFIXES)}")
    streams = streams_of(find_runs(runs))
    for number, stream in enumerate(streams):
        path = out if len(streams) == 1 else out.with_stem(f"{out.stem}-{number + 1}")
        save(draw(stream, kind or ("setting" if against else "curves"), measure, against), path)
        write(f"{path} is written: {stream.name}")


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[
        str, typer.Option(help="Title of the page.")
    ] = "Continual audio-video pre-training: what was kept, what was forgotten",
    against: Against = "",
) -> None:
    """Write one self-contained HTML page about finished runs: headline, tables, figures, pictures, settings."""
    from avcl.report.html import page
    from avcl.report.runs import find_runs, streams_of
    from avcl.utils.atomic import write_text
    from avcl.utils.console import write

    streams = streams_of(find_runs(runs))
    write_text(out, page(streams, title, against))
    write(f"{out} is written: {sum(len(stream.runs) for stream in streams)} runs")
