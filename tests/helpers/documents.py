"""Makes what the READMEs show: the table of methods from the registry, results from their raw files.

python tests/helpers/documents.py
"""

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from avcl.cli.plugins import settings_of
from avcl.registry import registry
from avcl.report.tables import Comparison, compare
from avcl.utils.atomic import write_text

HOME = Path(__file__).parents[2]
RESULTS = HOME / "examples" / "results"
METHODS = ("finetune", "derpp", "er", "stella", "stella-plus", "multitask")
COMMON = ("memory.", "replay", "contrastive_scope")


def methods() -> str:
    """The table of methods, a row for each bundled strategy; what all replaying ones take is left out."""
    rows = ["| method | what it is | paper | settings | status |", "| --- | --- | --- | --- | --- |"]
    offers = registry().offers("strategies")
    known = {cls: cls.name for plugin, cls in offers if plugin.module.startswith("avcl.plugins")}
    for cls in sorted(known, key=lambda cls: known[cls]):
        page = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
        paper = re.search(r"((?:NeurIPS|ICLR|ICML) \d{4}),\s+arXiv\s+(\d{4}\.\d{5})", page)
        status = " ".join(page.partition("Status: ")[2].split())
        base = next((part for part in cls.__mro__[1:] if part in known), None)
        inherited = {key for key, *_ in settings_of(base)} if base else set()
        settings = [f"those of `{known[base]}`"] if base else []
        settings += [
            f"`{key}` {default}"
            for key, _, default, _ in settings_of(cls)
            if not key.startswith(COMMON) and key not in inherited
        ]
        told = (
            f"[`{cls.name}`]({_file(cls)})",
            inspect.cleandoc(cls.__doc__ or "").partition("\n")[0],
            f"{paper[1]}, [{paper[2]}](https://arxiv.org/abs/{paper[2]})" if paper else "-",
            ", ".join(settings) or "-",
            status[0].upper() + status[1:],
        )
        rows.append(f"| {' | '.join(told)} |")
    return "\n".join(rows)


def _file(cls: type) -> str:
    """Where a strategy's page lies in plugins/."""
    path = Path(cls.__module__.removeprefix("avcl.plugins.").replace(".", "/"))
    return f"{path}/" if (HOME / "plugins" / path).is_dir() else f"{path}.py"


def compared() -> Comparison:
    """The committed runs of ``examples/compare.py`` on the rendered stream, three seeds each."""
    return compare({m: [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{m}-?.json"))] for m in METHODS})


def results() -> str:
    """R@10 of the committed runs as a table."""
    rows = [
        "| | audio -> video (a2v): average | forgetting | video -> audio (v2a): average | forgetting |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for method, cells in compared().items():
        rows.append(f"| `{method}` | {' | '.join(map(str, [*cells[0:2], *cells[4:6]]))} |")
    return "\n".join(rows)


def draw(path: Path) -> None:
    """R@10 of the committed runs as a picture: average and forgetting of each method, mean and deviation."""
    matplotlib.use("svg")
    style = {"svg.fonttype": "none", "svg.hashsalt": "avcl", "font.size": 9, "axes.titlesize": 9}
    rows = compared()
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
        for number, title in enumerate(("average R@10 after the last task, %", "forgetting, percentage points")):
            axis = axes[number]
            for place, cells in enumerate(rows.values()):
                for side, colour in enumerate(("#3465a4", "#ce5c00")):
                    mean, deviation, _ = cell = cells[4 * side + number]
                    y = place + 0.4 * side - 0.2
                    if mean is not None:
                        axis.barh(y, mean, 0.36, xerr=deviation, color=colour, ecolor="#888888")
                    axis.text(0.7, y, str(cell), va="center", color="#888888" if mean is None else "white", size=7)
            axis.set_title(f"{title} ({('higher', 'lower')[number]} is better)")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].invert_yaxis()
        figure.legend(
            axes[0].patches[:2], ("audio -> video (a2v)", "video -> audio (v2a)"), loc="outside lower center", ncols=2
        )
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "methods": ("plugins/README.md", methods),
    "results": ("examples/README.md", results),
}
PICTURE = "examples/results/forgetting.svg"


def section(name: str, text: str) -> tuple[str, str, str]:
    """``text`` before, between and after the marks of a generated part."""
    before, start, rest = text.partition(f"<!-- {name}: python tests/helpers/documents.py -->\n")
    inside, end, after = rest.partition(f"\n<!-- {name} -->")
    return before + start, inside, end + after


def main() -> None:
    """Write all of it."""
    for name, (path, make) in GENERATED.items():
        before, _, after = section(name, (HOME / path).read_text())
        write_text(HOME / path, before + make() + after)
    draw(HOME / PICTURE)


if __name__ == "__main__":
    main()
