"""What the bench of the training step found, as tables; and what stands between a method and a target."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from avcl.bench.stages import STAGES
from avcl.report.sheet import Cell, Sheet

REFERENCES = ("finetune", "derpp")
MB, GIGA = 1e6, 1e9

PAPER = {
    "finetune": (29.46, 18.34),
    "er": (17.70, 30.95),
    "mir": (5.73, 31.17),
    "derpp": (17.79, 30.95),
    "gmed": (5.63, 32.03),
    "cls-er": (15.24, 32.50),
    "lump": (26.67, 18.36),
    "esmer": (14.88, 31.45),
    "stella": (17.29, 17.45),
    "stella-plus": (18.11, 17.15),
}
"""Table 2 of arXiv 2310.08204: clips per second, and GB of GPU memory with the weights, of 9 clips on one V100."""


class Target(NamedTuple):
    """At least ``speed`` times the clips per second of ``against``, in at most ``memory`` times its memory.

    ``method`` is a pattern, as of file names.
    """

    method: str
    against: str
    speed: float
    memory: float


TARGETS = (
    Target("stella", "derpp", 1.12, 0.6),
    Target("stella,backbone.visible_of=kept", "derpp", 1.3, 0.5),
    Target("stella*,scorer=cosine*", "finetune", 0.95, 1.1),
)


class Method:
    """What was measured of one method, at one size."""

    def __init__(self, told: Mapping[str, Any], matrix_speed: float):
        self.told, self.matrix_speed = told, matrix_speed
        self.clips, self.seconds = told["clips"], told["seconds"]
        self.work: Mapping[str, int] = told["multiply_adds"]
        self.split = {stage: median(part.get(stage, 0.0) for part in told["split"]) for stage in STAGES}

    @property
    def speed(self) -> list[float]:
        """Clips per second, by round."""
        return [self.clips / seconds for seconds in self.seconds]

    @property
    def all_work(self) -> int:
        """Multiply-adds of a step."""
        return sum(self.work.values())

    @property
    def share(self) -> float:
        """Multiply-adds a second as a share of those of a large matrix product."""
        return self.all_work / median(self.seconds) / self.matrix_speed

    @property
    def peak(self) -> int:
        """Peak memory in bytes above weights and the optimizer's state."""
        return max(self.told["peak_bytes"].values())

    @property
    def peak_stage(self) -> str:
        """Where it is."""
        return max(self.told["peak_bytes"], key=lambda stage: self.told["peak_bytes"][stage])

    def times(self, other: Method) -> list[float]:
        """How many times as many clips per second as another one, round by round."""
        return [theirs / mine for mine, theirs in zip(self.seconds, other.seconds, strict=True)]

    def passes(self) -> str:
        """``"forward 2, encode 1; backward 1"``: in clips for each current one; backward passes are counted."""
        told = self.told["passes"]
        there = {kind: sum(clips) / self.clips for kind, clips in told.items() if clips and kind != "backward"}
        return f"{', '.join(f'{kind} {count:.3g}' for kind, count in there.items())}; backward {len(told['backward'])}"


def methods_of(result: Mapping[str, Any], size: str) -> dict[str, Method]:
    """The methods of a size, the references first."""
    told = result["sizes"][size]
    speed = median(told["matrix_multiply_adds_per_second"])
    names = [name for name in REFERENCES if name in told["methods"]]
    names += sorted(name for name in told["methods"] if name not in REFERENCES)
    return {name: Method(told["methods"][name], speed) for name in names}


def sheets(result: Mapping[str, Any]) -> Iterator[tuple[str, Sheet]]:
    """All tables, each with its title."""
    for size, told in result["sizes"].items():
        methods = methods_of(result, size)
        speed = median(told["matrix_multiply_adds_per_second"])
        per = f"{told['batch_size']} current clips a step, {told['weights_bytes'] / MB:.0f} MB of weights"
        yield f"{size}: {per}; matrix products at {speed / GIGA:.0f} G multiply-adds a second", overview(methods)
        yield f"{size}: a step by stage", by_stage(methods)
        if rows := list(verdicts(methods)):
            yield f"{size}: targets", targets(rows)


def overview(methods: Mapping[str, Method]) -> Sheet:
    """Clips per second, ratios to the references, memory, passes, multiply-adds."""
    against = [name for name in REFERENCES if name in methods]
    head = ["clips/s", *(f"x {name}" for name in against), "MB above weights", *(f"x {name}" for name in against)]
    head += ["passes, in current clips", "G multiply-adds a clip", "of the matrix speed"]
    rows = []
    for name, method in methods.items():
        cells = [_spread(method.speed), *(_spread(method.times(methods[other])) for other in against)]
        cells += [f"{method.peak / MB:.0f}", *(f"{method.peak / methods[other].peak:.2f}" for other in against)]
        cells += [method.passes(), f"{method.all_work / method.clips / GIGA:.3g}", f"{method.share:.0%}"]
        rows.append((name, _texts(cells)))
    return Sheet("method", head, {"": rows})


def by_stage(methods: Mapping[str, Method]) -> Sheet:
    """Seconds, multiply-adds and peak memory of every stage."""
    seconds, work, peaks = [], [], []
    for name, method in methods.items():
        total, told = sum(method.split.values()), method.told["peak_bytes"]
        seconds.append((name, _texts([f"{1e3 * s:.0f} ({s / total:.0%})" for s in method.split.values()])))
        work.append((name, _texts([f"{method.work.get(stage, 0) / GIGA:.3g}" for stage in STAGES])))
        peaks.append((name, _texts([f"{told.get(stage, 0) / MB:.0f}" for stage in STAGES])))
    sections = {"ms of a step": seconds, "G multiply-adds of a step": work, "MB above weights": peaks}
    return Sheet("method", list(STAGES), sections)


class Verdict(NamedTuple):
    """A target beside what was found, and where it is lost.

    ``stage``: the one that takes most time beyond the reference's · ``floor``: seconds of its multiply-adds at the
    measured matrix speed · ``bound``: the ratio that multiply-adds alone allow.
    """

    method: str
    target: Target
    speed: float
    memory: float
    stage: str
    seconds: float
    work: int
    floor: float
    bound: float
    peak_stage: str


def verdicts(methods: Mapping[str, Method], wanted: Sequence[Target] = TARGETS) -> Iterator[Verdict]:
    """Every target of methods that were measured, reached or not."""
    pairs = [(target, name) for target in wanted for name in fnmatch.filter(methods, target.method)]
    for target, name in pairs:
        if target.against not in methods:
            continue
        mine, other = methods[name], methods[target.against]
        stage = max(STAGES, key=lambda stage: mine.split[stage] - other.split[stage])
        yield Verdict(
            name,
            target,
            median(mine.times(other)),
            mine.peak / other.peak,
            stage,
            mine.split[stage],
            mine.work.get(stage, 0),
            mine.work.get(stage, 0) / mine.matrix_speed,
            other.all_work / mine.all_work,
            mine.peak_stage,
        )


def targets(rows: Sequence[Verdict]) -> Sheet:
    """Targets beside what was found; of a missed one the stage that stops it, and its floor."""
    head = ["wanted", "clips/s", "stopped by", "its floor", "multiply-adds alone allow", "memory", "peak in"]
    found = []
    for row in rows:
        target = row.target
        slow, large = row.speed < target.speed, row.memory > target.memory
        floor = f"{row.work / GIGA:.3g} G, {1e3 * row.floor:.0f} of {1e3 * row.seconds:.0f} ms"
        cells = [
            f">= {target.speed:g} x {target.against}, <= {target.memory:g} x its memory",
            f"{row.speed:.2f} x {'missed' if slow else 'reached'}",
            row.stage if slow else "-",
            floor if slow else "-",
            f"{row.bound:.2f} x",
            f"{row.memory:.2f} x {'missed' if large else 'reached'}",
            row.peak_stage if large else "-",
        ]
        found.append((row.method, _texts(cells)))
    return Sheet("method", head, {"": found})


def beside_the_paper(result: Mapping[str, Any], size: str) -> Sheet:
    """Clips per second and memory of a size, as ratios to DER++, beside those of the paper's Table 2."""
    methods = methods_of(result, size)
    reference, (paper_speed, paper_memory) = methods["derpp"], PAPER["derpp"]
    head = ["clips/s", "x derpp", "x derpp in the paper"]
    head += ["memory above weights, x derpp", "memory, x derpp in the paper"]
    rows = []
    for name, method in methods.items():
        cells = [_spread(method.speed), f"{median(method.times(reference)):.2f}", "-"]
        cells += [f"{method.peak / reference.peak:.2f}", "-"]
        if name in PAPER:
            cells[2], cells[4] = f"{PAPER[name][0] / paper_speed:.2f}", f"{PAPER[name][1] / paper_memory:.2f}"
        rows.append((name, _texts(cells)))
    return Sheet("method", head, {"": rows})


def _spread(values: Sequence[float]) -> str:
    """The median, and the lowest and the highest."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def _texts(cells: Sequence[str]) -> list[Cell]:
    return [Cell(text=cell) for cell in cells]
