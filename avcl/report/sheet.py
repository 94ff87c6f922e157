"""A table of numbers, written as text, Markdown or LaTeX; a number that is not above chance says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

STYLES = {"": "", "best": "bold", "second": "underline", "chance": "dim"}


class Cell(NamedTuple):
    """One number, or mean and standard deviation over runs of different seeds.

    ``mean`` is None where it is not defined, ``deviation`` also where there is but one run. ``mark``: ``best`` where no
    other method that had to learn task by task shows a better one, ``second`` where one does, ``chance`` where it is
    not above chance. ``text`` stands for what is no such number.
    """

    mean: float | None = None
    deviation: float | None = None
    mark: Literal["", "best", "second", "chance"] = ""
    text: str = ""

    @property
    def number(self) -> str:
        """Without its mark."""
        if self.text:
            return self.text
        return rounded(self.mean) + ("" if self.deviation is None else f" ± {rounded(self.deviation)}")

    def __str__(self) -> str:
        return self.number + (" (chance)" if self.mark == "chance" else "")


@dataclass(frozen=True)
class Sheet:
    """Rows of numbers, each with its label, in one section without a name or in several, under a head."""

    corner: str
    head: Sequence[str]
    sections: Mapping[str, Sequence[tuple[str, Sequence[Cell]]]]

    def table(self, title: str) -> Table:
        """For a terminal: the best in bold, the second underlined, what is at chance dim."""
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column(self.corner)
        for name in self.head:
            table.add_column(name, justify="right", overflow="fold")
        for section, rows in self.sections.items():
            if section:
                table.add_section()
                table.add_row(Text(section, style="italic"))
            for label, cells in rows:
                table.add_row(label, *(Text(str(cell), style=STYLES[cell.mark]) for cell in cells))
        return table

    def markdown(self) -> str:
        """For a page: the best in bold, the second underlined."""
        lines = [[self.corner, *self.head], ["---", *["---:"] * len(self.head)]]
        for section, rows in self.sections.items():
            lines += [[f"*{section}*", *[""] * len(self.head)]] if section else []
            lines += [[label, *map(_markdown, cells)] for label, cells in rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def latex(self) -> str:
        """For a paper that loads ``booktabs``: the best in bold, the second underlined, a dagger at chance."""
        return "\n".join(self._latex()) + "\n"

    def _latex(self) -> Iterator[str]:
        width = len(self.head) + 1
        yield from (rf"\begin{{tabular}}{{l{'r' * len(self.head)}}}", r"\toprule")
        yield rf"{' & '.join(map(_escaped, (self.corner, *self.head)))} \\"
        for section, rows in self.sections.items():
            yield r"\midrule"
            if section:
                yield rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_escaped(section)}}}}} \\"
            for label, cells in rows:
                yield rf"{_escaped(label)} & {' & '.join(map(_latex_cell, cells))} \\"
        yield r"\bottomrule"
        if any(cell.mark == "chance" for rows in self.sections.values() for _, cells in rows for cell in cells):
            yield rf"\multicolumn{{{width}}}{{l}}{{$^\dagger$ not above chance}} \\"
        yield r"\end{tabular}"


def rounded(value: float | None) -> str:
    """With one decimal."""
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"  # never -0.0


def _markdown(cell: Cell) -> str:
    return {"best": f"**{cell}**", "second": f"<u>{cell}</u>"}.get(cell.mark, str(cell))


def _latex_cell(cell: Cell) -> str:
    text = _escaped(cell.number).replace("±", r"$\pm$").replace("<", "$<$")
    marks = {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}", "chance": rf"{text}$^\dagger$"}
    return marks.get(cell.mark, text)


def _escaped(text: str) -> str:
    for sign in "_&%#":
        text = text.replace(sign, rf"\{sign}")
    return text.replace("->", r"$\to$")
