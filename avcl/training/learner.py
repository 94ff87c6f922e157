"""The loop: an Avalanche template for clips without labels, on which strategies act."""

from __future__ import annotations

import contextlib
import itertools
import logging
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Masks, Output
from avcl.compat import BaseSGDPlugin, BaseSGDTemplate, DatasetExperience, EvaluationPlugin, quiet_evaluator
from avcl.errors import UserError
from avcl.settings import Count, Fraction, Natural, NonNegative, Positive, Setting, check, fields
from avcl.strategy import Strategy
from avcl.training.loading import BadClips, Batches, Collate, Reader
from avcl.training.optim import OptimizerMaker, optimizer_of, parameter_groups, warm_up
from avcl.utils import distributed, seeding

log = logging.getLogger(__name__)

Moment = Annotated[float, Field(ge=0, lt=1)]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner(BaseSGDTemplate):
    """Trains a backbone on a stream of experiences under one or several strategies.

    Avalanche's streams, evaluation plugin, loggers and plugins work as with any of its templates; the
    update is ours, because a label-free, task-free stream of dicts is not what its own is made for. The
    defaults are the paper's (Continual-VS): one Adam over the whole stream, constant rate.

    ``batch_size``: clips of one forward pass and process; ``accumulate`` of them make one step ·
    ``warmup``: steps over which the rate rises linearly · ``clip_norm``: largest norm of the gradient ·
    ``precision``: of the forward passes, by autocast · ``workers``: processes that read clips; their number
    never changes a result · ``max_bad_share``: share of a task's clips that may be unusable ·
    ``initial``: weights for the strategies' own modules, by name.

    What strategies read and write: ``batch`` (Clip), ``current`` (the clips as they came), ``fresh`` (how
    many of the batch, at the front, are current), ``masks``, ``output``, ``weight`` (a factor for each
    current clip's loss), ``losses`` (by name; their sum is what is differentiated).
    """

    batch: Clip
    current: Clip
    fresh: int
    masks: Masks
    output: Output
    weight: Tensor | None
    losses: dict[str, Tensor]
    loss: Tensor
    mbatch: Any
    mb_output: Any
    _stop_training: bool

    def __init__(
        self,
        *,
        backbone: Backbone,
        strategy: Strategy | Sequence[Strategy],
        evaluator: EvaluationPlugin | None = None,
        plugins: Sequence[BaseSGDPlugin] = (),
        initial: Mapping[str, Tensor] | None = None,
        device: str | torch.device = "cpu",
        seed: Natural = 0,
        epochs: Count = 10,
        batch_size: Count = 48,
        eval_batch_size: Count = 48,
        accumulate: Count = 1,
        drop_last: bool = True,
        optimizer: Literal["adam", "adamw"] | OptimizerMaker = "adam",
        lr: NonNegative = 1e-4,
        betas: tuple[Moment, Moment] = (0.95, 0.999),
        weight_decay: NonNegative = 5e-7,
        warmup: Natural = 0,
        clip_norm: Positive | None = None,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        workers: Natural = 0,
        max_bad_share: Fraction = 0.1,
    ):
        given = dict(locals())
        check(type(self), {key: given[key] for key in settings_of_learner()}, without=OBJECTS)
        self.strategies = [strategy] if isinstance(strategy, Strategy) else list(strategy)
        self.seed, self.accumulate, self.drop_last = seed, accumulate, drop_last
        self.clip_norm, self.workers = clip_norm, workers
        self.initial = dict(initial or {})
        self.bad = BadClips(max_bad_share)
        self.generators = {name: seeding.generator(seed, name) for name in seeding.NAMES}
        super().__init__(
            model=backbone,
            optimizer=None,
            criterion=None,
            train_mb_size=batch_size,
            train_epochs=epochs,
            eval_mb_size=eval_batch_size,
            device=device,
            plugins=list(plugins),
            evaluator=evaluator or quiet_evaluator(),
        )
        self.model.to(self.device)
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self.tasks_done = self.batches_done = self.steps = 0
        self.between_batches: Callable[[Learner], None] = _go_on  # when all state is whole: a place to save it
        self.pending = 0  # batches whose gradients wait for the step
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in self.strategies:
                part.begin(self)
        for module in self.modules():
            module.to(self.device, self.dtype)
        groups = parameter_groups(self.backbone, self.modules(), weight_decay)
        self.optimizer = optimizer_of(groups, optimizer, lr, betas)
        self.warming = warm_up(self.optimizer, warmup)

    # ---- what strategies see -------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """The model, as strategies call it."""
        return self.model

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the backbone's parameters, to which clips are cast."""
        return next(self.model.parameters()).dtype

    @property
    def mb_x(self) -> Clip:
        """The batch under the name by which Avalanche's plugins know it."""
        return self.batch

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules that the strategies made, each with the name of the attribute."""
        for part in self.strategies:
            yield from ((name, value) for name, value in vars(part).items() if isinstance(value, nn.Module))

    def modules(self) -> Iterator[nn.Module]:
        """The same without names."""
        return (module for _, module in self.named_modules())

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        for module in (self.model, *self.modules()):
            yield from (p for p in module.parameters() if p.requires_grad)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision of this learner's forward passes."""
        if self.precision not in HALF:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=HALF[self.precision])

    def peak_bytes(self) -> int:
        """The most memory so far: of the device's allocator on a GPU, else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    # ---- training --------------------------------------------------------------------------------------

    def train(self, experiences: Any, eval_streams: Sequence[Any] = (), **kwargs: Any) -> dict[str, Any]:
        """Train on one experience or a stream of them, in order; their boundaries are masked."""
        if not isinstance(experiences, Iterable):
            experiences = [experiences]
        return super().train((e.train() for e in experiences), list(eval_streams), **kwargs)

    def make_train_dataloader(self, **kwargs: Any) -> None:
        """One loader for all epochs of the task, so that workers live as long as it lasts."""
        data = self.adapted_dataset
        batches = self._order(len(data), self.batches_done)
        if not batches.per_epoch:
            raise UserError(
                f"learner.batch_size: {self.train_mb_size} is more than the {len(data) // distributed.world_size()} "
                "clips that a task holds for this process; lower it, or set learner.drop_last=false"
            )
        self.batches_per_epoch = batches.per_epoch
        self.bad.enter(len(data))
        self.dataloader = self._loader(data, self.seed, batches)
        self._batches = iter(self.dataloader)

    def batches_of(self, clips: int) -> int:
        """How many batches of this process one epoch of so many clips has."""
        return self._order(clips).per_epoch

    def _order(self, clips: int, start: int = 0) -> Batches:
        return Batches(
            clips=clips,
            batch_size=self.train_mb_size,
            epochs=self.train_epochs,
            seed=self.seed,
            task=self.tasks_done,
            drop_last=self.drop_last,
            rank=distributed.rank(),
            world=distributed.world_size(),
            start=start,
        )

    def _loader(self, data: Any, seed: int | None, batches: Iterable[list[tuple[int, int]]]) -> DataLoader:
        return DataLoader(
            Reader(data, seed),
            batch_sampler=batches,
            collate_fn=Collate(data.collate_fn),
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            # its own, so that making a loader never advances torch's global generator
            generator=torch.Generator(),
        )

    def _train_exp(self, experience: DatasetExperience, eval_streams: Any = None, **kwargs: Any) -> None:
        while self.batches_done < self.batches_per_epoch * self.train_epochs and not self._stop_training:
            self._before_training_epoch(**kwargs)
            self.training_epoch(**kwargs)
            self._after_training_epoch(**kwargs)
        self._stop_training = False

    def training_epoch(self, **kwargs: Any) -> None:
        """The rest of the current epoch, batch by batch."""
        left = self.batches_per_epoch - self.batches_done % self.batches_per_epoch
        for self.mbatch in itertools.islice(self._batches, left):  # noqa: B020 - as Avalanche does
            if self._stop_training:
                break
            self.batches_done += 1
            self._unpack_minibatch()
            if len(self.current):
                self._iteration(**kwargs)
            self.between_batches(self)

    def _iteration(self, **kwargs: Any) -> None:
        """One batch through the strategies' three verbs."""
        self.batch, self.fresh, self.weight = self.current, len(self.current), None
        self._before_training_iteration(**kwargs)
        if not self.pending:
            self.optimizer.zero_grad()
        with self.autocast():
            for part in self.strategies:
                part.prepare(self)
            self._before_forward(**kwargs)
            self.masks = self.backbone.draw_masks(self.batch, self.generators["mask"])
            self.output = self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.criterion()
        self._before_backward(**kwargs)
        self.backward()
        self._after_backward(**kwargs)
        self.pending = (self.pending + 1) % self.accumulate
        if not self.pending:
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
        for part in self.strategies:
            part.observe(self)
        self._after_training_iteration(**kwargs)

    def forward(self) -> Output:
        """The backbone's output for the batch under the masks."""
        return self.model(self.batch, self.masks)

    def criterion(self) -> Tensor:
        """The sum of all named losses: the backbone's terms, averaged over clips, and the penalties."""
        if not self.is_training:
            return self._make_empty_loss()
        penalties: dict[str, Tensor] = {}
        for part in self.strategies:
            for key, value in part.penalty(self).items():
                if key in penalties or key in self.output.terms:
                    raise UserError(f"{part.name}: the loss term {key!r} exists already; name it otherwise")
                penalties[key] = value
        self.losses = {key: self._mean(term) for key, term in self.output.terms.items()} | penalties
        return torch.stack([loss.to(self.device) for loss in self.losses.values()]).sum()

    def _mean(self, term: Tensor) -> Tensor:
        if self.weight is None:
            return term.mean()
        past = term.new_ones(len(term) - len(self.weight))
        return (torch.cat([self.weight, past]) * term).mean()

    def backward(self) -> None:
        """Add this batch's share to the gradient; a loss that is not finite ends the run."""
        # Looking at a number on a GPU waits for it; a NaN stays, so that looking now and then is enough.
        if (self.device.type == "cpu" or self.steps % 16 == 0) and not torch.isfinite(self.loss):
            values = ", ".join(f"{key} {loss.item():g}" for key, loss in self.losses.items())
            raise UserError(
                f"step {self.steps}: the loss is not finite ({values}); lower learner.lr or set learner.clip_norm"
            )
        self.scaler.scale(self.loss / self.accumulate).backward()
        self.loss = self.loss.detach()
        self.losses = {key: loss.detach() for key, loss in self.losses.items()}

    def optimizer_step(self) -> None:
        """Average over processes, clip, step."""
        distributed.average_gradients(self.parameters())
        if self.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.warming is not None:
            self.warming.step()
        self.steps += 1

    def _after_training_exp(self, **kwargs: Any) -> None:
        for part in self.strategies:
            if part.needs_boundaries:
                part.end_task(self)
        super()._after_training_exp(**kwargs)
        self.tasks_done, self.batches_done = self.tasks_done + 1, 0

    # ---- evaluation ------------------------------------------------------------------------------------

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Every clip once, in order; every process sees all of them, so that no gallery shrinks."""
        data, size = self.adapted_dataset, self.eval_mb_size
        numbers = [(0, number) for number in range(len(data))]
        self.bad.enter(len(data))
        self.dataloader = self._loader(data, None, list(_chunks(numbers, size)))

    def eval_epoch(self, **kwargs: Any) -> None:
        """Embed every clip; ``mb_output`` is ``(audio (B, D), video (B, D))``, ``batch`` carries the labels."""
        for self.mbatch in self.dataloader:  # noqa: B020 - as Avalanche does
            self._unpack_minibatch()
            if not len(self.batch):
                continue
            self._before_eval_iteration(**kwargs)
            self._before_eval_forward(**kwargs)
            with self.autocast():
                self.mb_output = self.backbone.embed(self.batch)
            self._after_eval_forward(**kwargs)
            self._after_eval_iteration(**kwargs)

    # ---- clips -----------------------------------------------------------------------------------------

    def _unpack_minibatch(self) -> None:
        items, bad = self.mbatch
        for clip in self.bad.add(bad):
            log.warning("skipped %s", clip)
        if items is None:
            self.batch = self.current = _NOTHING
            return
        items = {key: value.to(self.device, non_blocking=True) for key, value in items.items()}
        whole = Clip.cut(
            frames=items["frames"].to(self.dtype),
            mel=items["mel"].to(self.dtype),
            patch=self.backbone.patch,
            index=items.get("index"),
            label=items.get("label"),
            task=items.get("task"),
        )
        shown = self.is_eval or any(part.needs_boundaries for part in self.strategies)
        self.batch = self.current = whole if shown else whole.masked()

    # ---- Avalanche's hooks that a static model does not need --------------------------------------------

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """Nothing grows with the tasks."""
        return self.model

    def make_optimizer(self, **kwargs: Any) -> None:
        """Made once: Avalanche's own wipes Adam's state and adds frozen parameters."""

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Nothing to adapt to a new experience."""

    def _make_empty_loss(self) -> Tensor:
        return torch.zeros((), device=self.device)


OBJECTS = ("backbone", "strategy", "evaluator", "plugins", "initial", "device", "seed")
"""Parameters of the learner that are no settings of a file's ``learner`` section."""

_NOTHING: Any = ()


def settings_of_learner() -> Mapping[str, Setting]:
    """The learner's parameters that are plain settings, by name: those of a configuration file."""
    return fields(Learner, without=OBJECTS)


def _go_on(learner: Learner) -> None:
    """Nothing to do between two batches."""


def _chunks(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))
