"""Whether the right patches are selected: importance and choice of a method against the truth of its clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from einops import reduce
from pydantic import PositiveInt
from torch import Tensor

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid
from avcl.compat import MetricValue, PluginMetric
from avcl.errors import BadClip
from avcl.metrics.continual import average
from avcl.registry import blamed
from avcl.scenario import Scenario, truth_of
from avcl.selection import Choice, Selection
from avcl.strategy import Strategy
from avcl.training.learner import Learner
from avcl.utils import seeding

AT_ONCE = 16
"""Clips that are scored at once, whatever batch size a run evaluates with: so that its scores do not depend on it."""
HALF = 0.5
"""Share of a patch from which on it counts as one of the source."""
KINDS = ("video", "audio")


class Selects(Protocol):
    """A strategy, or what is to be compared with one (``avcl.metrics.baselines``)."""

    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection | None:
        """What it would keep of whole clips, and by which scores."""
        ...


# ---- scores ----------------------------------------------------------------------------------------------------


def auc(scores: Tensor, source: Tensor) -> Tensor:
    """Area under the ROC curve of ``scores (B, L)`` for ``source (B, L)`` bool, (B,); NaN where L are all or none.

    The chance that a patch of the source scores higher than another one, equal scores counting one half: a blind
    score has 0.5.
    """
    below, equal = _below_and_equal(scores)
    rank = below + (equal + 1) / 2
    inside, outside = source.sum(1), (~source).sum(1)
    won = (rank * source).sum(1) - inside * (inside + 1) / 2
    return won / (inside * outside)


def recall(scores: Tensor, source: Tensor, keep: int) -> Tensor:
    """Share of ``source (B, L)`` bool among the ``keep`` highest of ``scores (B, L)``, (B,); NaN where there is none.

    Among equal scores the order is random, and the expected share is returned: a blind score has ``keep / L``.
    """
    below, equal = _below_and_equal(scores)
    above = scores.shape[1] - below - equal
    hit = ((keep - above) / equal).clamp(0, 1)
    return (hit * source).sum(1) / source.sum(1)


def entropy(importance: Tensor) -> Tensor:
    """Entropy of ``importance (B, L)``, not negative, as a share of its maximum, (B,): 1 where all are equal."""
    share = importance.double() / importance.double().sum(1, keepdim=True)
    return torch.special.entr(share).sum(1) / torch.tensor(float(importance.shape[1]), dtype=torch.float64).log()


def _below_and_equal(scores: Tensor) -> tuple[Tensor, Tensor]:
    """How many of a row's scores are smaller than each of them, and how many are equal, itself included."""
    scores = scores.double().contiguous()
    ordered = scores.sort(1).values
    below = torch.searchsorted(ordered, scores)
    return below.double(), (torch.searchsorted(ordered, scores, right=True) - below).double()


# ---- truth -----------------------------------------------------------------------------------------------------


def video_source(mask: Tensor, patch: int) -> Tensor:
    """Share of each video patch's pixels that are of the source, (V,), of its ``mask (T, H, W)``."""
    return reduce(mask.double(), "t (r p) (k q) -> (t r k)", "mean", p=patch, q=patch)


def audio_source(interval: tuple[int, int], grid: Grid, patch: int) -> Tensor:
    """Share of each audio patch's time in which the source sounds, (A,), of its ``interval`` of mel frames."""
    sounds = torch.zeros(grid.times * patch, dtype=torch.float64)
    sounds[slice(*interval)] = 1
    return reduce(sounds, "(t p) -> t", "mean", p=patch).repeat_interleave(grid.freqs)


class Source(NamedTuple):
    """Where the source of B clips is, by modality (``video``, ``audio``).

    ``share``: of each patch's pixels or time, (B, L) · ``patches``: bool, (B, V) and (B, times), those of which it
    fills half, or of a source that is nowhere as large the one of which it fills most.
    """

    share: dict[str, Tensor]
    patches: dict[str, Tensor]


def source_of(truths: Sequence[Any], grid: Grid, patch: int) -> Source:
    """The source of clips of which the truth is known (see ``avcl.scenario.truth_of``)."""
    share = {
        "video": torch.stack([video_source(truth.mask, patch) for truth in truths]),
        "audio": torch.stack([audio_source(truth.interval, grid, patch) for truth in truths]),
    }
    whole = {"video": share["video"], "audio": share["audio"][:, :: grid.freqs]}
    enough = {kind: (x > 0) & (x >= x.amax(1, keepdim=True).clamp(max=HALF)) for kind, x in whole.items()}
    return Source(share, enough)


def in_time(importance: Tensor, freqs: int) -> Tensor:
    """Importance of audio patches (B, A) summed over the ``freqs`` of each patch of time, (B, times)."""
    return reduce(importance.double(), "b (t f) -> b t", "sum", f=freqs)


# ---- a method against the truth --------------------------------------------------------------------------------


def fixed_clips(dataset: Any, count: int) -> list[int]:
    """Numbers of ``count`` clips of a dataset, spread over it at random: the same ones for every run and seed."""
    drawn = torch.randperm(len(dataset), generator=seeding.generator(0, "fixed clips"))[:count]
    return drawn.sort().values.tolist()


def whole_clips(dataset: Any, numbers: Sequence[int], backbone: Backbone) -> tuple[list[int], Clip | None]:
    """The clips ``numbers``, whole and blind, for the backbone; without corrupt ones, of which none may be left."""
    items, good = [], []
    for number in numbers:
        try:
            with blamed(dataset, "__getitem__"):
                items.append(dataset[number])
        except BadClip:  # the evaluation counted and named it
            continue
        good.append(number)
    if not items:
        return good, None
    weight = next(backbone.parameters())
    frames, mel = (torch.stack([item[key] for item in items]).to(weight) for key in ("frames", "mel"))
    index = torch.tensor([int(item["index"]) for item in items], device=weight.device)
    return good, Clip.cut(frames, mel, backbone.patch, index=index)


def oracle(source: Source, grid: Grid, generator: torch.Generator, keep: float = HALF) -> Selection:
    """What one who knows the truth keeps of clips: the share ``keep`` of patches that is most of the source."""
    choices = []
    for share in (source.share["video"], source.share["audio"].unflatten(1, (grid.times, grid.freqs))[..., 0]):
        # among equal ones at random, of audio whole columns of time
        order = (share + 1e-9 * torch.rand(share.shape, generator=generator)).argsort(1, descending=True)
        choices.append(Choice(share, order[:, : max(1, int(keep * share.shape[1]))]))
    video, audio = choices
    columns = (audio.kept[..., None] * grid.freqs + torch.arange(grid.freqs)).flatten(1)
    return Selection(video=video, audio=Choice(source.share["audio"], columns))


@torch.no_grad()
def selection_scores(
    method: Selects | None, backbone: Backbone, dataset: Any, *, clips: int = 32, seed: int = 0
) -> dict[str, float | None]:
    """How well ``method`` finds the source in ``clips`` of a dataset that knows the truth; empty if it does not select.

    None is the ``oracle``, the best that there can be.

    Of video patches and of audio patches in time, ``<video|audio>/<name>``, means over clips:

    - ``auc`` of importance (chance: 0.5), and ``recall`` of the source among as many of the most important patches
      as are kept (chance: ``recall_chance``); which patches are the source's: ``Source``;
    - ``source_<kept|pruned|visible|all>``: share of these patches that is source (chance: that of all); visible are
      those that the masks leave of the kept ones; None where nothing is pruned;
    - ``entropy`` of importance, as a share of its maximum: at 1 it is blind.

    Draws are a function of ``seed``, and nothing of the method changes. Also for weights outside of a run: a
    strategy must have begun (``avcl.training.view.begun``).
    """
    truth = truth_of(dataset)
    if truth is None:
        return {}
    generator = seeding.generator(seed, "selection")
    rows: dict[str, list[Tensor]] = {}
    numbers = fixed_clips(dataset, clips)
    for start in range(0, len(numbers), AT_ONCE):
        good, clip = whole_clips(dataset, numbers[start : start + AT_ONCE], backbone)
        if clip is None:
            continue
        source = source_of([truth(number) for number in good], backbone.grid, backbone.patch)
        found = (
            oracle(source, backbone.grid, generator) if method is None else method.selection(backbone, clip, generator)
        )
        if found is None:
            return {}
        kept = (choice.kept.to(clip.video.device) for choice in (found.video, found.audio))
        masks = backbone.draw_masks(clip.take(*kept), generator)
        for kind, choice in zip(KINDS, (found.video, found.audio), strict=True):
            visible = getattr(masks, kind)[:, : getattr(masks, f"{kind}_visible")]
            freqs = backbone.grid.freqs if kind == "audio" else 1
            for key, value in _compared(choice, visible, source.share[kind], source.patches[kind], freqs):
                rows.setdefault(f"{kind}/{key}", []).append(value)
    return {key: known_mean(torch.cat(values)) for key, values in rows.items()}


def _compared(
    choice: Choice, visible: Tensor, source: Tensor, is_source: Tensor, freqs: int
) -> Iterator[tuple[str, Tensor]]:
    """Every score of each clip, (B,), by name; importance is summed over ``freqs`` to a patch of time."""
    importance, kept = choice.importance.cpu().double(), choice.kept.cpu()
    summed, keep = in_time(importance, freqs), round(kept.shape[1] / freqs)
    yield "auc", auc(summed, is_source)
    yield "recall", recall(summed, is_source, keep)
    yield "recall_chance", torch.full((len(source),), min(1.0, keep / summed.shape[1]), dtype=torch.float64)
    yield "source_kept", source.gather(1, kept).mean(1)
    if choice.pruned is not None:
        pruned = choice.pruned.cpu()
        yield "source_pruned", (source * pruned).sum(1) / pruned.sum(1)
    yield "source_visible", source.gather(1, kept.gather(1, visible.cpu())).mean(1)
    yield "source_all", source.mean(1)
    yield "entropy", entropy(importance)


def known_mean(values: Tensor) -> float | None:
    """The mean of what is not NaN; None where nothing is left."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else None


class SelectionScores(PluginMetric[dict[str, Any]]):
    """How well a patch-selecting strategy finds the source, on every task's evaluation clips after every task.

    Where clips know the truth, as those of ``synthetic`` do. Tags: ``eval/selection/<video|audio>/<name>``, the mean
    over the tasks so far of each of ``selection_scores``; the task matrix of each is in ``results()``.

    Args:
        clips: Evaluation clips of each task, the same ones every time.
    """

    def __init__(self, scenario: Scenario, *, clips: PositiveInt = 32):
        super().__init__()
        self.scenario, self.clips = scenario, clips
        self.history: dict[str, list[list[float | None]]] = {}
        self.reset()

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Score the selection on the clips of all tasks; not within a task."""
        part = selecting(strategy.strategies)
        if strategy.batches_done or not strategy.tasks_done or part is None:
            return []
        tasks = range(len(self.scenario.task_names))
        with strategy.autocast(), blamed(part, "selection"):
            rows = [
                selection_scores(
                    part, strategy.backbone, self.scenario.clips(task, "eval"), clips=self.clips, seed=strategy.seed
                )
                for task in tasks
            ]
        for key in rows[0]:
            self.history.setdefault(key, []).append([row.get(key) for row in rows])
        step = strategy.clock.train_iterations
        return [MetricValue(self, f"eval/selection/{key}", value, step) for key, value in self.result().items()]

    def result(self) -> dict[str, float]:
        """The mean over the tasks so far of each score that is known."""
        last = {key: _average(rows) for key, rows in self.history.items()}
        return {key: value for key, value in last.items() if value is not None}

    def reset(self) -> None:
        """Nothing is kept from one evaluation for the next but the history."""

    def results(self) -> dict[str, Any]:
        """The task matrix of every score and its average over the tasks so far, after every task."""
        scores: dict[str, Any] = {}
        for key, rows in self.history.items():
            averages = [_average(rows[: after + 1]) for after in range(len(rows))]
            scores[key] = {"matrix": rows, "average": averages} | ({"chance": 0.5} if key.endswith("/auc") else {})
        return {"clips": self.clips, "scores": scores} if scores else {}

    def state_dict(self) -> dict[str, Any]:
        """The task matrices so far."""
        return {"history": self.history}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the task matrices of ``state``."""
        self.history = state["history"]

    def __str__(self) -> str:
        return "selection"


def selecting(strategies: Sequence[Strategy]) -> Strategy | None:
    """The first of a learner's strategies that selects patches, if one does."""
    return next((part for part in strategies if type(part).selection is not Strategy.selection), None)


def _average(rows: Sequence[Sequence[float | None]]) -> float | None:
    """Over the tasks seen after as many evaluations as there are rows; None where one is not known."""
    return None if None in rows[-1][: len(rows)] else average([[x or 0.0 for x in row] for row in rows])
