"""What a method costs, as far as every machine agrees: forward passes, patches, bytes of the replay buffer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip
from avcl.compat import MetricValue, PluginMetric
from avcl.memory import Memory
from avcl.training.learner import Learner
from avcl.utils import distributed

ENTRANCES = ("forward", "embed", "tokens", "encode")
"""The methods of a backbone that pass clips through its encoder; each may use the others."""


class Passes:
    """Counts passes of clips through backbones, those of teachers, too, from ``watch`` to ``release``.

    ``passes``: calls from outside of any of ``ENTRANCES`` · ``clips``: those passed, over all of these calls.
    """

    def __init__(self) -> None:
        self.passes = self.clips = 0
        self._inside = False
        self._watched: list[Backbone] = []

    def watch(self, backbones: Iterator[Backbone]) -> None:
        """Count what is passed through these from now on."""
        for backbone in backbones:
            self._watched.append(backbone)
            for name in ENTRANCES:
                setattr(backbone, name, self._counting(getattr(backbone, name)))

    def release(self) -> None:
        """Leave the backbones as they were."""
        while self._watched:
            backbone = self._watched.pop()
            for name in ENTRANCES:
                delattr(backbone, name)

    def _counting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(clip: Clip, *args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return method(clip, *args, **kwargs)
            self.passes, self.clips, self._inside = self.passes + 1, self.clips + len(clip), True
            try:
                return method(clip, *args, **kwargs)
            finally:
                self._inside = False

        return call


class Efficiency(PluginMetric[dict[str, float]]):
    """Cost of a training step, and of the replay buffer; times are in ``train/speed``.

    In ``results()``, means over all steps: ``forward_passes_per_step``, through the backbone and teachers' copies of
    it; ``clip_passes_per_clip``, clips passed for each current one; ``<video|audio>_patches_<kept|visible>``, of each
    clip in the pass that is trained on; and ``buffer_bytes``, now and ``full``, with all that is stored beside clips.
    """

    SUMS = ("steps", "current", "passes", "clips", "video_kept", "audio_kept", "video_visible", "audio_visible")

    def __init__(self) -> None:
        super().__init__()
        self._passes = Passes()
        self.sums = dict.fromkeys(self.SUMS, 0)
        self.buffer = {"buffer_bytes": 0, "buffer_bytes_full": 0}
        self.reset()

    def before_training_iteration(self, strategy: Learner) -> None:
        """Count the passes of this step."""
        self._passes.release()  # of a step that failed
        self._passes = Passes()
        self._passes.watch(_backbones(strategy))

    def after_training_iteration(self, strategy: Learner) -> None:
        """Add this step."""
        self._passes.release()
        batch, masks = strategy.batch, strategy.masks
        current, clips = distributed.table([strategy.num_current, self._passes.clips]).sum(0).tolist()
        found = (
            *(1, current, self._passes.passes, clips),
            *(batch.video.shape[1], batch.audio.shape[1], masks.video_visible, masks.audio_visible),
        )
        for key, count in zip(self.SUMS, found, strict=True):
            self.sums[key] += count

    def before_eval(self, strategy: Learner) -> None:
        """Look at the replay buffers."""
        held = [part for strategy_ in strategy.strategies for part in vars(strategy_).values()]
        self.buffer = {
            "buffer_bytes": sum(part.nbytes for part in held if isinstance(part, Memory)),
            "buffer_bytes_full": sum(part.full_bytes() for part in strategy.strategies),
        }

    def after_eval(self, strategy: Learner) -> list[MetricValue]:
        """Show passes and bytes."""
        step, found = strategy.clock.train_iterations, self.results()
        shown = [key for key in ("forward_passes_per_step", "buffer_bytes") if key in found]
        return [MetricValue(self, f"train/cost/{key}", float(found[key]), step) for key in shown]

    def result(self) -> dict[str, float]:
        """The same as ``results``."""
        return self.results()

    def reset(self) -> None:
        """Sums are over the whole run."""

    def results(self) -> dict[str, float]:
        """Means over the steps so far, and the replay buffer's bytes at the last evaluation; empty before a step."""
        sums = self.sums
        if not sums["steps"]:
            return {}
        each = {
            "forward_passes_per_step": sums["passes"] / sums["steps"],
            "clip_passes_per_clip": sums["clips"] / sums["current"],
        }
        patches = {
            f"{kind}_patches_{what}": sums[f"{kind}_{what}"] / sums["steps"]
            for kind in ("video", "audio")
            for what in ("kept", "visible")
        }
        return each | patches | self.buffer

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {"sums": self.sums, "buffer": self.buffer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the sums of ``state``."""
        self.sums, self.buffer = dict(state["sums"]), dict(state["buffer"])

    def __str__(self) -> str:
        return "efficiency"


def _backbones(learner: Learner) -> Iterator[Backbone]:
    """The learner's backbone and every copy of one that its strategies hold, each once."""
    held: list[nn.Module] = [part for module in learner.modules() for part in module.modules()]
    return iter({id(part): part for part in [learner.backbone, *held] if isinstance(part, Backbone)}.values())
