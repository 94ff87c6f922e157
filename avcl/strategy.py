"""A strategy says how not to forget, in three verbs: prepare the batch, penalise, observe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss

from avcl.memory import Memory, Past
from avcl.settings import Component

if TYPE_CHECKING:
    from avcl.training.learner import Learner


@dataclass(kw_only=True)
class Strategy(Component):
    """Base of all strategies; each verb does nothing until it is overridden.

    A strategy reads and writes ``learner.batch`` (the clips to train on), ``learner.fresh`` (how many of
    them, at the front, are current), ``learner.masks``, ``learner.output``, ``learner.weight`` (a factor
    for each clip's loss). Whatever it keeps between steps is made in ``begin`` as an attribute: a module,
    a memory, a tensor or a number; then the learner trains, saves and restores it. What lives for one step
    only has a name that begins with an underscore.
    """

    needs_boundaries: ClassVar[bool] = False
    """Whether it must see labels, tasks and the end of tasks. Then the run is tagged so."""

    joint: ClassVar[bool] = False
    """Whether all tasks are shuffled together before training: no stream any more, an upper bound."""

    def begin(self, learner: Learner) -> None:
        """Make the state. Called once, before the optimizer is built: modules made here are trained."""

    def prepare(self, learner: Learner) -> None:
        """Change ``learner.batch``: add from memory, choose patches, mix. Labels and tasks are hidden."""

    def penalty(self, learner: Learner) -> dict[str, Tensor]:
        """Named scalars to add to the loss, already weighted; the names are those in TensorBoard."""
        return {}

    def observe(self, learner: Learner) -> None:
        """After the step: remember, update teachers. ``learner.output`` is from before the step."""

    def end_task(self, learner: Learner) -> None:
        """A task is over. Called only for strategies that declare ``needs_boundaries``."""

    def full_bytes(self) -> int:
        """Bytes that it will keep of past clips, once that many were seen."""
        return 0

    def log(self) -> dict[str, float]:
        """Numbers that tell whether the method is alive, shown as ``train/<strategy>/<name>``."""
        return {}


@dataclass(kw_only=True)
class Rehearsal(Strategy):
    """Replay past clips beside the current ones: the common ground of every method with a memory.

    ``memory``: the reservoir · ``replay``: clips drawn for each step, as many as are current by default ·
    ``contrastive_scope``: ``joint`` makes current and past clips each other's negatives (one softmax over
    all of them, as the authors do), ``split`` keeps the two apart.
    """

    memory: Memory = field(default_factory=Memory)
    replay: Annotated[int, Field(gt=0)] | None = None
    contrastive_scope: Literal["joint", "split"] = "joint"

    def begin(self, learner: Learner) -> None:
        """Open the memory on its own generator."""
        self.memory.open(learner.generators["memory"])

    def draw(self, learner: Learner) -> Past | None:
        """Past clips on the learner's device and in its precision, or None while the memory is empty."""
        if not len(self.memory):
            return None
        return self.memory.sample(self.replay or learner.fresh).to(learner.device, learner.dtype)

    def prepare(self, learner: Learner) -> None:
        """Append past clips to the batch; the first step has none."""
        self._past = self.draw(learner)
        if self._past is not None:
            learner.batch = learner.batch + self._past.clip

    def penalty(self, learner: Learner) -> dict[str, Tensor]:
        """Nothing to add; ``split`` contrasts current and past clips among themselves."""
        if self._past is not None and self.contrastive_scope == "split":
            output, parts = learner.output, (slice(None, learner.fresh), slice(learner.fresh, None))
            apart = [learner.backbone.contrast(output.audio[part], output.video[part]) for part in parts]
            learner.output = replace(output, terms={**output.terms, "contrastive": torch.cat(apart)})
        return {}

    def drift(self, learner: Learner, audio: Tensor, video: Tensor) -> Tensor:
        """How far the replayed clips' embeddings are from the targets ``audio (R, D)`` and ``video (R, D)``.

        The sum over both modalities of the mean squared error over clips and dimensions.
        """
        output = learner.output
        return mse_loss(output.audio[learner.fresh :], audio) + mse_loss(output.video[learner.fresh :], video)

    def remember(self, learner: Learner) -> dict[str, Tensor]:
        """What to store beside each current clip, (B, ...) by name."""
        return {}

    def observe(self, learner: Learner) -> None:
        """Offer the current clips, never the replayed ones, to the memory."""
        self.memory.add(learner.current, **self.remember(learner))

    def full_bytes(self) -> int:
        """Bytes of the memory once it is full, known after the first step."""
        return self.memory.full_bytes

    def log(self) -> dict[str, float]:
        """Bytes and clips in memory."""
        return {"memory_bytes": float(self.memory.nbytes), "memory_clips": float(len(self.memory))}
