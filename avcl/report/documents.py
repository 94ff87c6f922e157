"""The comparison of many runs as text, Markdown, LaTeX or CSV, each stream with what was equal and what was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from avcl.report.budget import budget_lines
from avcl.report.comparison import Comparison, compare
from avcl.report.runs import Stream
from avcl.utils.console import counted


def compared(stream: Stream, against: str = "") -> Comparison:
    """The methods of a stream, side by side."""
    return compare({method: [run.results for run in runs] for method, runs in stream.methods.items()}, against)


def about(stream: Stream) -> list[str]:
    """What stands above the tables of a stream: its name, its seeds, and what the methods were given."""
    what = f"{counted(len(stream.runs), 'run')} of {counted(len(stream.methods), 'method')}"
    return [f"{stream.name}: {what}", *budget_lines(stream)]


def for_terminal(streams: Sequence[Stream], against: str = "") -> Iterator[str | Table]:
    """Lines and tables."""
    for stream in streams:
        yield from about(stream)
        for title, sheet in compared(stream, against).sheets():
            yield sheet.table(title)


def markdown(streams: Sequence[Stream], against: str = "") -> str:
    """For a page."""
    parts = []
    for stream in streams:
        head, *lines = about(stream)
        parts += [f"## {head}", "\n".join(f"- {line}" for line in lines)]
        for title, sheet in compared(stream, against).sheets():
            parts += [f"{title}:", sheet.markdown()]
    return "\n\n".join(parts) + "\n"


def latex(streams: Sequence[Stream], against: str = "") -> str:
    """For a paper that loads ``booktabs``; titles and what was equal are comments."""
    parts = []
    for stream in streams:
        parts.append("\n".join(f"% {line}" for line in about(stream)))
        parts += [f"% {title}\n{sheet.latex()}" for title, sheet in compared(stream, against).sheets()]
    return "\n".join(parts)


def csv_of(streams: Sequence[Stream], against: str = "") -> str:
    """For programs: all streams in one table."""
    texts = [compared(stream, against).csv(stream.name) for stream in streams]
    return texts[0] + "".join(text.partition("\n")[2] for text in texts[1:])


FORMS = {"csv": csv_of, "latex": latex, "markdown": markdown}
