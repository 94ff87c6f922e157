"""A strategy says how not to forget, in three verbs: prepare the batch, penalise, observe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from avcl.clip import Clip
from avcl.errors import UserError
from avcl.memory import Memory, Past
from avcl.selection import Selection
from avcl.settings import Component, fields
from avcl.utils import distributed

if TYPE_CHECKING:
    from avcl.backbones.protocol import Backbone
    from avcl.training.view import LearnerView


@dataclass(kw_only=True)
class Strategy(Component):
    """Base of all strategies; each verb does nothing until it is overridden.

    A strategy reads and writes ``learner.batch`` (the clips to train on), ``learner.num_current`` (how many of
    them, at the front, are current), ``learner.masks``, ``learner.output``, ``learner.weight`` (a factor for
    each current clip's loss). Whatever it keeps between steps is made in ``begin`` as an attribute: a module,
    a memory, a tensor or a number; then the learner trains, saves and restores it. What lives for one step
    only has a name that begins with an underscore.
    """

    needs_boundaries: ClassVar[bool] = False
    """Whether it must see labels, tasks and task boundaries. Then the run is tagged so."""

    joint: ClassVar[bool] = False
    """Whether all tasks are shuffled together before training: no stream any more, an upper bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._logged: dict[str, Any] = {}

    def begin(self, learner: LearnerView) -> None:
        """Make the state. Called once, before the optimizer is built: modules made here are trained."""

    def prepare(self, learner: LearnerView) -> None:
        """Change ``learner.batch``: replay, choose patches, mix. Labels and tasks are hidden."""

    def penalty(self, learner: LearnerView) -> dict[str, Tensor]:
        """Named scalars to add to the loss, already weighted; the names are those in TensorBoard."""
        return {}

    def observe(self, learner: LearnerView) -> None:
        """After the step: remember, update teachers. ``learner.output`` is from before the step."""

    def end_task(self, learner: LearnerView) -> None:
        """A task boundary. Called only for strategies that declare ``needs_boundaries``."""

    def selection(self, backbone: Backbone, clip: Clip, generator: torch.Generator) -> Selection | None:
        """What it would keep of whole clips, and by which scores; None for a method that takes all patches.

        Asked after ``begin``, also outside of training: to be answered without gradient, without changing anything,
        and with draws from ``generator`` alone. Metrics compare it with the truth, pictures show it.
        """
        return None

    def full_bytes(self) -> int:
        """Bytes of the replay buffer once it is full."""
        return 0

    def log(self) -> dict[str, float]:
        """Diagnostics of the last step, logged as ``train/<strategy>/<name>``: what it put into ``_logged``."""
        return {key: float(value) for key, value in self._logged.items()}

    def state_dict(self) -> dict[str, Any]:
        """What ``begin`` made, by attribute; UserError for what cannot be saved."""
        state: dict[str, Any] = {}
        for key, value in vars(self).items():
            if key.startswith("_"):
                continue
            if isinstance(value, nn.Module | Memory):
                state[key] = value.state_dict()
            elif key in fields(type(self)):
                continue
            elif value is None or isinstance(value, Tensor | int | float):
                state[key] = value
            else:
                raise UserError(
                    f"{self.name}.{key}: a {type(value).__name__} cannot be saved; keep modules, memories, tensors "
                    "or numbers, or begin the name with an underscore if it lives for one step only"
                )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        for key, value in state.items():
            held = getattr(self, key, None)
            if isinstance(held, nn.Module | Memory):
                held.load_state_dict(value)
            else:
                setattr(self, key, value)


@dataclass(kw_only=True)
class Rehearsal(Strategy):
    """Replay of stored clips beside the current ones: the common ground of every method with a memory.

    A subclass answers what to add to the loss (``penalty``) and what to store beside each clip (``remember``).
    During a step ``_past`` holds what was drawn (None while the memory is empty) and ``_rows`` says where in
    the batch it is: several replaying strategies may share one learner, each with rows and a memory of its own.

    Args:
        memory: Replay buffer.
        replay: Replayed clips of each step: a number of them, or as a decimal (2.0) how many times as many as are
            current; null for as many.
        contrastive_scope: Negatives of the contrastive loss: joint takes current and replayed clips together (one
            softmax over all, as the STELLA authors do), split keeps the two apart.
    """

    memory: Memory = field(default_factory=Memory)
    replay: PositiveInt | PositiveFloat | None = None
    contrastive_scope: Literal["joint", "split"] = "joint"

    def begin(self, learner: LearnerView) -> None:
        """Open the memory on its own generator."""
        self.memory.open(learner.generators["memory"])

    def draw(self, learner: LearnerView) -> Past | None:
        """Stored clips on the learner's device and in its precision, or None while the memory is empty.

        Of several processes each has its part of them, maybe none.
        """
        if not len(self.memory):
            return None
        return self.memory.sample(self.wanted(learner)).to(learner.device, learner.dtype)

    def wanted(self, learner: LearnerView) -> int:
        """How many clips to replay in this step, over all processes."""
        if isinstance(self.replay, int):
            return self.replay
        current = distributed.place(learner.num_current).total
        return current if self.replay is None else max(1, round(self.replay * current))

    def prepare(self, learner: LearnerView) -> None:
        """Append stored clips to the batch; the first step has none."""
        self._past = self.draw(learner)
        self.append(learner, None if self._past is None else self._past.clip)

    def append(self, learner: LearnerView, past: Clip | None) -> None:
        """Replay ``past`` behind the batch; of clips with more patches than it has, a random subset of them."""
        start, parts = len(learner.batch), len(learner.batch.parts)
        if past is not None:
            shape = learner.batch.video.shape[1], learner.batch.audio.shape[1]
            if shape != (past.video.shape[1], past.audio.shape[1]):
                past = past.sample(*shape, learner.generators["auxiliary"])
            learner.batch = learner.batch + past
        self._claim(learner, start, parts)

    def _claim(self, learner: LearnerView, start: int, parts: int) -> None:
        """What is behind the first ``parts`` of the batch, from row ``start`` on, is what this strategy replays.

        ``split`` contrasts it on its own.
        """
        self._rows = slice(start, len(learner.batch))
        if parts < len(learner.batch.parts) and self.contrastive_scope == "split":
            learner.apart.append(self._rows)

    def penalty(self, learner: LearnerView) -> dict[str, Tensor]:
        """Nothing to add; ``split`` contrasts its rows, and what nobody split off, among themselves."""
        if self._rows in learner.apart:
            output = learner.output
            together = torch.ones(len(learner.batch), dtype=torch.bool, device=learner.device)
            for rows in learner.apart:
                together[rows] = False
            term = torch.zeros_like(output.terms["contrastive"])
            parts: list[slice | Tensor] = [together.nonzero().squeeze(1), *learner.apart]
            for part in parts:
                term[part] = learner.backbone.contrast(output.audio[part], output.video[part])
            learner.output = replace(output, terms={**output.terms, "contrastive": term})
        return {}

    def replayed(self, learner: LearnerView) -> slice:
        """Rows of the batch that it replays; without a memory of its own, all rows that others replay."""
        alone = self.memory.capacity or self.memory.budget_bytes
        return self._rows if alone else slice(learner.num_current, None)

    def replays(self, learner: LearnerView) -> bool:
        """Whether any clip is replayed in this step, by whichever process."""
        return distributed.place(len(learner.batch.index[self.replayed(learner)])).total > 0

    def drift(self, learner: LearnerView, audio: Tensor, video: Tensor) -> Tensor:
        """Embedding drift: squared distance of the replayed clips from targets ``audio`` and ``video (R, D)``.

        The sum over both modalities of the mean squared error over clips and dimensions.
        """
        output, past = learner.output, self.replayed(learner)
        found = mse_loss(output.audio[past], audio) + mse_loss(output.video[past], video)
        return distributed.balanced(found, len(audio))

    def remember(self, learner: LearnerView) -> dict[str, Tensor]:
        """What to store beside each current clip, (B, ...) by name."""
        return {}

    def observe(self, learner: LearnerView) -> None:
        """Offer the current clips, never the replayed ones, to the memory."""
        self.memory.add(learner.current, **self.remember(learner))

    def full_bytes(self) -> int:
        """Bytes of the memory once it is full, known after the first step."""
        return self.memory.full_bytes

    def log(self) -> dict[str, float]:
        """Diagnostics of the last step, and bytes and clips in memory."""
        return super().log() | {"memory_bytes": float(self.memory.nbytes), "memory_clips": float(len(self.memory))}
