"""Pictures of what a patch-selecting method keeps of a few clips, after every task, and of how that changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import PositiveInt

from avcl.compat import MetricValue, PluginMetric
from avcl.experiment.run_folder import RunFolder
from avcl.hookspecs import hookimpl
from avcl.metrics.attention import AttentionForgetting
from avcl.metrics.selection import fixed_clips, selecting, whole_clips
from avcl.registry import blamed
from avcl.report.panels import Shown
from avcl.report.pictures import Kept, forgetting_figure, selection_figure, write_figure
from avcl.scenario import Scenario, truth_of
from avcl.selection import Selection
from avcl.strategy import Strategy
from avcl.training.learner import Learner
from avcl.utils import distributed, seeding

if TYPE_CHECKING:
    from avcl.experiment.run import Run


class Pictures(PluginMetric[None]):
    """Draws, after every task, a few fixed evaluation clips of it, and the attention to one clip of each earlier task.

    For patch-selecting strategies. In the run folder ``pictures/after_<n>_<task>.png`` and, from the second task on,
    ``pictures/attention_after_<n>_<task>.png``; in TensorBoard the images ``pictures/selection`` and
    ``pictures/attention``.

    ``parts``: the tasks, or what is trained on one after the other.

    Args:
        clips: Clips of a picture, the same ones in every run.
    """

    def __init__(
        self,
        scenario: Scenario,
        parts: Sequence[str],
        folder: RunFolder,
        attention: AttentionForgetting,
        *,
        clips: PositiveInt = 3,
    ):
        super().__init__()
        self.scenario, self.parts, self.folder = scenario, parts, folder
        self.attention, self.clips = attention, clips
        self.reset()

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Draw and write; not within a task."""
        part, done = selecting(strategy.strategies), strategy.tasks_done
        if strategy.batches_done or not done or part is None:
            return []
        return [
            MetricValue(self, f"pictures/{name}", image, strategy.clock.train_iterations)
            for name, image in self._figures(strategy, part, done)
        ]

    def _figures(self, learner: Learner, part: Strategy, done: int) -> Iterator[tuple[str, Any]]:
        file = f"after_{done}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', self.parts[done - 1])}.png"
        kept = list(self._kept(learner, part, done - 1))  # by all processes: they share a replay buffer
        if distributed.rank():
            return
        if kept:
            figure = selection_figure(kept, f"What {part.name} selects, after task {done} ({self.parts[done - 1]})")
            yield "selection", write_figure(figure, self.folder / "pictures" / file)
        if done > 1 and len(self.attention.maps) == done:
            title = f"Where {part.name} looked after each task"
            if rows := list(self._shown(learner, done)):
                figure = forgetting_figure(rows, self.parts[:done], title)
                yield "attention", write_figure(figure, self.folder / "pictures" / f"attention_{file}")

    @torch.no_grad()
    def _kept(self, learner: Learner, part: Strategy, task: int) -> Iterator[Kept]:
        """The fixed clips of a task with what is selected, seen and reconstructed of them."""
        backbone, generator = learner.backbone, seeding.generator(learner.seed, "pictures")
        dataset = self.scenario.clips(task, "eval")
        numbers, clip = whole_clips(dataset, fixed_clips(dataset, self.clips), backbone)
        if clip is None:
            return
        with learner.autocast(), blamed(part, "selection"):
            chosen = part.selection(backbone, clip, generator)
            if chosen is None:
                return
            left = clip.take(chosen.video.kept, chosen.audio.kept)
            masks = backbone.draw_masks(left, generator)
            whole, truth = backbone.reconstruct(left, masks), truth_of(dataset)
        for row, number in enumerate(numbers):
            one = slice(row, row + 1)
            yield Kept(
                Shown(clip[one], backbone.grid, backbone.patch, truth(number) if truth else None),
                Selection(video=chosen.video[one], audio=chosen.audio[one]),
                masks.seen(left)[one],
                None if whole is None else whole[one],
            )

    def _shown(self, learner: Learner, done: int) -> Iterator[tuple[Shown, list[Any]]]:
        """The first fixed clip of each task with its maps after each: importance by modality, and correlations."""
        for task in range(done):
            dataset = self.scenario.clips(task, "eval")
            numbers, clip = whole_clips(dataset, fixed_clips(dataset, self.attention.clips), learner.backbone)
            if clip is None:
                continue
            truth = truth_of(dataset)
            shown = Shown(clip[:1], learner.backbone.grid, learner.backbone.patch, truth(numbers[0]) if truth else None)
            yield shown, [self._map(after, task) for after in range(task, done)]

    def _map(self, after: int, task: int) -> dict[str, tuple[Any, float]]:
        return {
            kind: (maps[:1], float(self.attention.correlation(kind, after, task)[0]))
            for kind, maps in self.attention.maps[after][task].items()
        }

    def result(self) -> None:
        """Nothing but pictures."""

    def reset(self) -> None:
        """Nothing is kept."""

    def __str__(self) -> str:
        return "pictures"


@hookimpl
def metrics(run: Run) -> Iterable[PluginMetric]:
    """Register attention forgetting and the pictures, which show it."""
    attention = AttentionForgetting(run.scenario)
    return [attention, Pictures(run.scenario, run.parts, run.folder, attention)]
