"""Makes what the READMEs show: the table of methods from the registry, results from their raw files.

python tests/helpers/documents.py
"""

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
from matplotlib import pyplot

from avcl.cli.plugins import settings_of
from avcl.config.bundled import bundled_files
from avcl.registry import registry
from avcl.training.verdicts import VERDICTS
from avcl.utils.atomic import write_text

HOME = Path(__file__).parents[2]
RESULTS = HOME / "examples" / "results"
METHODS = ("finetune", "derpp", "er", "stella", "stella-plus", "multitask")
COMMON = ("memory.", "replay", "contrastive_scope")
COLUMNS = [(f"{side}/R@10", summary) for side in ("a2v", "v2a") for summary in ("average", "forgetting")]


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


def found(method: str) -> list[tuple[float | None, float]]:
    """(mean, standard deviation) of ``COLUMNS`` after the last task, over the committed runs of one method."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{method}-?.json"))]
    measures = [run["metrics"]["retrieval"]["measures"] for run in runs]
    columns = [[measure[key][summary][-1] for measure in measures] for key, summary in COLUMNS]
    return [(None, 0.0) if None in values else (fmean(values), stdev(values)) for values in columns]


def text_of(mean: float | None, deviation: float) -> str:
    """A number as it is shown."""
    return "-" if mean is None else f"{mean:.1f} ± {deviation:.1f}"


def results() -> str:
    """R@10 of the committed runs as a table."""
    rows = [
        "| | audio -> video (a2v): average | forgetting | video -> audio (v2a): average | forgetting |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    rows += [f"| `{method}` | {' | '.join(text_of(*cell) for cell in found(method))} |" for method in METHODS]
    return "\n".join(rows)


def draw(path: Path) -> None:
    """R@10 of the committed runs as a picture: average and forgetting of each method, mean and deviation."""
    matplotlib.use("svg")
    style = {"svg.fonttype": "none", "svg.hashsalt": "avcl", "font.size": 9, "axes.titlesize": 9}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
        for number, title in enumerate(("average R@10 after the last task, %", "forgetting, percentage points")):
            axis = axes[number]
            for place, method in enumerate(METHODS):
                for side, colour in enumerate(("#3465a4", "#ce5c00")):
                    mean, deviation = found(method)[2 * side + number]
                    y = place + 0.4 * side - 0.2
                    if mean is not None:
                        axis.barh(y, mean, 0.36, xerr=deviation, color=colour, ecolor="#888888")
                        axis.text(0.7, y, text_of(mean, deviation), va="center", color="white", size=7)
            axis.set_title(f"{title} ({('higher', 'lower')[number]} is better)")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_yticks(range(len(METHODS)), METHODS)
        axes[0].invert_yaxis()
        figure.legend(
            axes[0].patches[:2], ("audio -> video (a2v)", "video -> audio (v2a)"), loc="outside lower center", ncols=2
        )
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def files() -> str:
    """The bundled run files, and what each says first."""
    rows = ["| name | |", "| --- | --- |"]
    for name, path in bundled_files().items():
        rows.append(f"| [`{name}`]({path.name}) | {path.read_text().partition(chr(10))[0].removeprefix('# ')} |")
    return "\n".join(rows)


def avalanche() -> str:
    """Avalanche's plugins, metrics and loggers: which work, and what to use for the others."""
    rows = ["| Avalanche's | works | why not | use |", "| --- | --- | --- | --- |"]
    for package, verdicts in VERDICTS.items():
        rows.append(f"| **{package}** | | | |")
        for verdict in sorted(verdicts.values(), key=lambda verdict: (bool(verdict.reason), verdict.names.lower())):
            names = ", ".join(f"`{name}`" for name in verdict.names.split(", "))
            told = "no" if verdict.reason else "yes"
            rows.append(f"| {names} | {told} | {verdict.reason or '-'} | {verdict.instead or '-'} |")
    return "\n".join(rows)


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "methods": ("plugins/README.md", methods),
    "results": ("examples/README.md", results),
    "run files": ("examples/README.md", files),
    "avalanche": ("examples/README.md", avalanche),
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
