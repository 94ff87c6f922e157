"""Makes what the READMEs show: the table of methods from the registry, results from their raw files.

python tests/helpers/documents.py
"""

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from avcl.bench.tables import beside_the_paper, sheets
from avcl.cli.plugins import settings_of
from avcl.config.bundled import bundled_files
from avcl.registry import registry
from avcl.report.documents import compared
from avcl.report.drawing import save
from avcl.report.figures import draw
from avcl.report.runs import Stream, find_runs, streams_of
from avcl.report.sheet import Cell, Sheet
from avcl.training.verdicts import VERDICTS
from avcl.utils.atomic import write_text
from avcl.utils.console import counted

HOME = Path(__file__).parents[2]
RESULTS = HOME / "examples" / "results" / "first_run"
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


def stream() -> Stream:
    """The committed runs on the rendered stream."""
    (found,) = streams_of(find_runs([RESULTS]))
    return found


def results() -> str:
    """What the committed runs found, and how far each method is from ER."""
    comparison = compared(stream(), "er")
    (short, table), _, (paired, differences) = comparison.sheets()
    both = {"": next(iter(differences.sections.values()))}
    sheets = ((short, table), (f"{paired}, both directions", replace(differences, sections=both)))
    return "\n\n".join(f"{title}:\n\n{sheet.markdown()}" for title, sheet in sheets)


def first_run() -> str:
    """The same in short: mean recall of both directions, and its difference from ER's."""
    comparison = compared(stream(), "er")
    (_, table), _, (_, differences) = comparison.sheets()
    told = {method: cells[1] for method, cells in next(iter(differences.sections.values()))}
    rows = [(method, [*cells[:3], told.get(method, Cell())]) for method, cells in table.sections[""]]
    head = ["average", "forgetting", "learning accuracy", "average, difference from ER (95 % interval)"]
    return Sheet("method", head, {"": rows}).markdown()


SCORES = {  # what is shown of each raw file, evaluation and score
    ("pretrained", "classification", "top1"): "classification, top-1",
    ("pretrained", "event_localization", "balanced_accuracy"): "event localization, mean over classes of accuracy",
    ("pretrained", "event_localization", "accuracy"): "event localization, all segments (chance: always background)",
    ("pretrained", "knn", "accuracy"): "k nearest neighbours, top-1",
    ("pretrained", "linear_probe", "accuracy"): "linear probe, top-1",
    ("masks-bundled-weights", "segmentation", "miou"): "segmentation, mIoU (chance: the best centre disc)",
    ("masks-random-weights", "segmentation", "miou"): "segmentation, mIoU, from random weights",
    ("masks-bundled-weights", "source_localization", "matching/pointing"): "the matching module points at the source "
    "(chance: the centre)",
    (
        "masks-bundled-weights",
        "source_localization",
        "matching/ciou_adaptive",
    ): "the same, success at IoU 0.5 of as many pixels as the source has",
}


def evaluations() -> str:
    """Scores on the rendered stream beside chance."""
    rows = ["| | score | chance |", "| --- | ---: | ---: |"]
    for (file, name, score), what in SCORES.items():
        found = json.loads((HOME / "examples" / "results" / "evaluations" / f"{file}.json").read_text())[name]
        rows.append(f"| {what} | {found['scores'][score]:.1f} | {found['chance'][score]:.1f} |")
    return "\n".join(rows)


def draw_results(path: Path) -> None:
    """Average and forgetting over tasks, as `avcl plot` draws them."""
    save(draw(stream(), "curves"), path)


def measurements() -> dict[str, dict[str, Any]]:
    """The committed measurements of training steps by file name: that of a GPU, cuda, before that of a CPU."""
    paths = (HOME / "avcl" / "bench").glob("training_*.json")
    return {path.name: json.loads(path.read_text()) for path in sorted(paths, key=lambda path: "cuda" not in path.name)}


def bench() -> str:
    """All tables of all measurements, each with its machine."""
    parts = []
    for name, result in measurements().items():
        machine, versions, settings = (result[key] for key in ("machine", "versions", "settings"))
        clock = "of the processor" if settings["cpu_time"] else "on the wall"
        parts.append(
            f"{machine['device_name'] or machine['processor']}, {counted(machine['threads'], 'thread')} of "
            f"{counted(machine['cores'], 'core')}, load {machine['load']:.1f}, torch {versions['torch']}, "
            f"{counted(settings['rounds'], 'round')}, seconds {clock} ([raw]({name})):"
        )
        parts += [f"{title}:\n\n{sheet.markdown()}" for title, sheet in sheets(result)]
    return "\n\n".join(parts)


def speed() -> str:
    """The largest size of the first measurement, beside the paper's Table 2."""
    result = next(iter(measurements().values()))
    return beside_the_paper(result, list(result["sizes"])[-1]).markdown()


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
    "first run": ("README.md", first_run),
    "results": ("examples/README.md", results),
    "evaluations": ("avcl/evaluation/README.md", evaluations),
    "bench": ("avcl/bench/README.md", bench),
    "run files": ("examples/README.md", files),
    "avalanche": ("examples/README.md", avalanche),
}
PICTURE = "examples/results/first_run.svg"


def section(name: str, text: str) -> tuple[str, str, str]:
    """``text`` before, between and after the marks of a generated part."""
    before, start, rest = text.partition(f"<!-- {name}: python tests/helpers/documents.py -->\n")
    inside, end, after = rest.partition(f"\n<!-- {name} -->")
    if not (start and end):
        raise ValueError(f"the marks of {name!r} are not there, or nothing stands between them")
    return before + start, inside, end + after


def main() -> None:
    """Write all of it."""
    for name, (path, make) in GENERATED.items():
        before, _, after = section(name, (HOME / path).read_text())
        write_text(HOME / path, before + make() + after)
    draw_results(HOME / PICTURE)


if __name__ == "__main__":
    main()
