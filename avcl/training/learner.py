"""The loop: an Avalanche template for clips without labels, on which strategies act."""

from __future__ import annotations

import contextlib
import itertools
import logging
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Output
from avcl.compat import BaseSGDPlugin, BaseSGDTemplate, DatasetExperience, EvaluationPlugin, quiet_evaluator
from avcl.errors import BadClip, UserError
from avcl.memory import Memory
from avcl.registry import blamed
from avcl.settings import Fraction, Moment, Seed, Setting, fields, validate
from avcl.strategy import Strategy
from avcl.training import verdicts
from avcl.training.callbacks import Callback
from avcl.training.diverged import diverged
from avcl.training.loader import TIMEOUT
from avcl.training.loading import BadClips, Loading, check_items
from avcl.training.optim import OptimizerMaker, optimizer_of, parameter_groups
from avcl.training.update import Update
from avcl.training.view import LearnerView, shared
from avcl.utils import distributed, seeding

log = logging.getLogger(__name__)

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner(BaseSGDTemplate):
    """Trains a backbone on a stream of experiences under one or several strategies.

    Avalanche's streams, evaluation plugin and loggers work as with any of its templates; plugins and metrics of its
    own that need labels are refused (``avcl.training.verdicts``). The update is ours, because a label-free, task-free
    stream of dicts is not what its own is made for. The defaults are the paper's (Continual-VS): one Adam over the
    whole stream, constant learning rate.

    Strategies see its ``view`` and nothing else; what is in there (``batch``, ``output``, ``losses``, ...) is the
    learner's, too.

    Args:
        epochs: Passes over each task's clips.
        batch_size: Current clips of one forward pass, over all processes.
        eval_batch_size: Clips of one forward pass in evaluation.
        accumulate: Gradient accumulation: batches that make one optimizer step.
        shuffle: Whether every epoch visits a task's clips in a new random order; false keeps the scenario's.
        drop_last: Whether an epoch's last batch is left out where it is smaller than batch_size.
        optimizer: Optimizer over all trained parameters, one for the whole stream; in Python also a function that
            makes one of parameter groups.
        lr: Learning rate.
        betas: Decay rates of Adam's first and second moment.
        weight_decay: Weight decay of matrices; vectors and position tables have none.
        warmup: Optimizer steps of linear learning-rate warm-up; 0 for none.
        clip_norm: Gradient clipping norm: gradients of a larger global norm are scaled down to it; null for none.
        precision: Precision of the forward passes, by autocast; weights stay in float32.
        workers: Loader processes that read clips; their number never changes a result.
        loader_timeout: Seconds that a batch of the loader processes may take before the run ends; 0 to wait for ever.
        max_bad_share: Share of a task's clips that may be corrupt before the run ends.
    """

    batch, current, num_current = shared("batch"), shared("current"), shared("num_current")
    masks, output, weight, losses = shared("masks"), shared("output"), shared("weight"), shared("losses")
    backbone, dtype, generators = shared("backbone"), shared("dtype"), shared("generators")
    update, pending = shared("update"), shared("pending")
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
        seed: Seed = 0,
        epochs: PositiveInt = 10,
        batch_size: PositiveInt = 48,
        eval_batch_size: PositiveInt = 48,
        accumulate: PositiveInt = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        optimizer: Literal["adam", "adamw"] | OptimizerMaker = "adam",
        lr: NonNegativeFloat = 1e-4,
        betas: tuple[Moment, Moment] = (0.95, 0.999),
        weight_decay: NonNegativeFloat = 5e-7,
        warmup: NonNegativeInt = 0,
        clip_norm: PositiveFloat | None = None,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        workers: NonNegativeInt = 0,
        loader_timeout: NonNegativeFloat = TIMEOUT,
        max_bad_share: Fraction = 0.1,
    ):
        given = {key: value for key, value in locals().items() if key not in (*OBJECTS, "self", "__class__")}
        mine = SimpleNamespace(**validate(type(self), given, without=OBJECTS))
        self.seed = validate(type(self), {"seed": seed}, without=OBJECTS[:-1])["seed"]
        self.strategies = [strategy] if isinstance(strategy, Strategy) else list(strategy)
        self.bad = BadClips(mine.max_bad_share)
        evaluator = evaluator or quiet_evaluator()
        verdicts.refuse(plugins, evaluator.metrics, evaluator.loggers)
        super().__init__(
            model=backbone,
            optimizer=None,
            criterion=None,
            train_mb_size=mine.batch_size,
            train_epochs=mine.epochs,
            eval_mb_size=mine.eval_batch_size,
            device=device,
            plugins=list(plugins),
            evaluator=evaluator,
        )
        self.plugins.sort(key=lambda plugin: isinstance(plugin, Callback))  # those see this moment's metrics
        self.model.to(self.device)
        self.view = LearnerView(
            backbone,
            self.device,
            next(backbone.parameters()).dtype,
            {name: seeding.generator(self.seed, name) for name in seeding.NAMES},
            dict(initial or {}),
        )
        self.precision = mine.precision
        if mine.batch_size < distributed.world_size():
            least = f"must be at least {distributed.world_size()}, the number of processes"
            raise UserError(f"learner.batch_size: invalid value {mine.batch_size}: {least}")
        self.loading = Loading(
            mine.batch_size,
            mine.eval_batch_size,
            mine.epochs,
            self.seed,
            mine.drop_last,
            mine.workers,
            shuffle=mine.shuffle,
            blind=not any(part.needs_boundaries for part in self.strategies),
            pin_memory=self.device.type == "cuda",
            timeout=mine.loader_timeout,
        )
        self.tasks_done = self.batches_done = 0
        self.between_batches: Callable[[Learner], None] = _go_on  # when all state is whole: a place to save it
        self.between_eval_batches: Callable[[Learner], None] = _go_on
        self._begin()
        groups = parameter_groups(self.backbone, self.modules(), mine.weight_decay)
        self.optimizer = optimizer_of(groups, mine.optimizer, mine.lr, mine.betas)
        self.update = Update(
            self.parameters(),
            self.optimizer,
            accumulate=mine.accumulate,
            warmup=mine.warmup,
            clip_norm=mine.clip_norm,
            scaler=torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16"),
        )

    def _begin(self) -> None:
        """Let every strategy make its state; what cannot be saved is refused now, not after a task."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for part in self.strategies:
                with blamed(part, "begin"):
                    part.begin(self.view)
                part.state_dict()
        for module in self.modules():
            module.to(self.device, self.dtype)

    # ---- what metrics, loggers and runs see ------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return self.update.steps

    @property
    def mb_x(self) -> Clip:
        """The batch under the name by which Avalanche's plugins know it."""
        return self.batch

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Modules that the strategies made, by attribute; one whose name is taken gets its strategy's in front."""
        taken: set[str] = set()
        for part in self.strategies:
            for key, value in vars(part).items():
                if isinstance(value, nn.Module):
                    name = f"{part.name}.{key}" if key in taken else key
                    taken.add(name)
                    yield name, value

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
        """Peak memory so far: of the device's allocator on a GPU, else the resident size of this process."""
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
        """One loader for the batches of the task that are left."""
        data = self.adapted_dataset
        batches = self.loading.order(len(data), self.tasks_done, self.batches_done)
        self.batches_per_epoch = batches.per_epoch
        self.bad.enter(len(data))
        self.dataloader = self.loading.train(data, batches)
        self._batches = iter(self.dataloader)

    def batches_of(self, clips: int) -> int:
        """Batches in one epoch of so many clips."""
        return self.loading.order(clips, self.tasks_done).per_epoch

    @property
    def task_is_over(self) -> bool:
        """Whether all batches of the current task were trained on."""
        return self.batches_done >= self.batches_per_epoch * self.train_epochs

    def _train_exp(self, experience: DatasetExperience, eval_streams: Any = None, **kwargs: Any) -> None:
        while not self.task_is_over and not self._stop_training:
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
            if distributed.place(len(self.current)).total:
                self.training_iteration(**kwargs)
            self.between_batches(self)

    def training_iteration(self, **kwargs: Any) -> None:
        """One batch, ``current``, through the strategies' three verbs."""
        self.view.enter(self.current)
        self._before_training_iteration(**kwargs)
        self.update.prepare()
        with self.autocast():
            for part in self.strategies:
                with blamed(part, "prepare"):
                    part.prepare(self.view)
            self._before_forward(**kwargs)
            self.masks = self.backbone.draw_masks(self.batch, self.generators["mask"])
            self.output = self.mb_output = self.forward()
            check_output(self.output, len(self.batch))
            self._after_forward(**kwargs)
            self.loss = self.criterion()
        self._before_backward(**kwargs)
        self.backward()
        self._after_backward(**kwargs)
        if self.update.due:
            self._before_update(**kwargs)
            self.optimizer_step()
            self._after_update(**kwargs)
        for part in self.strategies:
            with blamed(part, "observe"):
                part.observe(self.view)
        self._after_training_iteration(**kwargs)

    def forward(self) -> Output:
        """The backbone's output for the batch under the masks."""
        return self.model(self.batch, self.masks)

    def criterion(self) -> Tensor:
        """The sum of all named losses: the backbone's terms, averaged over clips, and the penalties.

        With several processes the mean over them is the loss; each has its part of it.

        A penalty whose name another strategy has used already gets its own strategy's in front.
        """
        if not self.is_training:
            return self._make_empty_loss()
        penalties: dict[str, Tensor] = {}
        for part in self.strategies:
            with blamed(part, "penalty"):
                found = part.penalty(self.view)
            for key, value in found.items():
                name = f"{part.name}.{key}" if key in penalties else key
                if name in penalties or key in self.output.terms:
                    raise UserError(f"{part.name}: the loss term {name!r} exists already; name it otherwise")
                penalties[name] = value
        self.losses = {key: self._mean(term) for key, term in self.output.terms.items()} | penalties
        return torch.stack([loss.to(self.device) for loss in self.losses.values()]).sum()

    def _mean(self, term: Tensor) -> Tensor:
        if self.weight is None:
            return distributed.mean(term)
        past = term.new_ones(len(term) - len(self.weight))
        return distributed.mean(torch.cat([self.weight, past]) * term)

    def backward(self) -> None:
        """Add this batch's share to the gradient; a loss that is not finite ends the run."""
        # Looking at a number on a GPU waits for it; a NaN stays, so that looking now and then is enough.
        if (self.device.type == "cpu" or self.steps % 16 == 0) and not torch.isfinite(self.loss):
            raise diverged(self)
        self.update.backward(self.loss)
        found = distributed.average({**self.losses, "": self.loss})
        self.loss = found.pop("").detach()
        self.losses = {key: loss.detach() for key, loss in found.items()}

    def optimizer_step(self) -> None:
        """The step that is due."""
        self.update.step()

    def _after_training_exp(self, **kwargs: Any) -> None:
        for part in self.strategies:
            if part.needs_boundaries:
                with blamed(part, "end_task"):
                    part.end_task(self.view)
        super()._after_training_exp(**kwargs)
        self.tasks_done, self.batches_done = self.tasks_done + 1, 0

    # ---- evaluation ------------------------------------------------------------------------------------

    def make_eval_dataloader(self, **kwargs: Any) -> None:
        """Every clip once, in order."""
        self.bad.enter(len(self.adapted_dataset))
        self.dataloader = self.loading.evaluate(self.adapted_dataset)

    def eval(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Evaluate as Avalanche does; whatever metrics do then, every process does with the same clips."""
        with distributed.alone():
            return super().eval(*args, **kwargs)

    def eval_epoch(self, **kwargs: Any) -> None:
        """Embed every clip; ``mb_output`` is ``(audio (B, D), video (B, D))``, ``batch`` carries the labels.

        Several processes embed different batches, and all are shown all of them in order: then without patches, which
        stay with the process that read them and are NaN for everyone.
        """
        for self.mbatch in self.dataloader:  # noqa: B020 - as Avalanche does
            self._unpack_minibatch()
            if distributed.world_size() == 1:
                self._embed(**kwargs)
            else:
                mine = self._embedded() if len(self.batch) else None
                for self.batch, self.mb_output in filter(None, distributed.everyone(mine)):
                    self._embed(self.mb_output, **kwargs)
            self.between_eval_batches(self)

    def _embed(self, output: Any = None, **kwargs: Any) -> None:
        """One batch through the hooks of evaluation."""
        if not len(self.batch):
            return
        self._before_eval_iteration(**kwargs)
        self._before_eval_forward(**kwargs)
        with self.autocast():
            self.mb_output = self.backbone.embed(self.batch) if output is None else output
        self._after_eval_forward(**kwargs)
        self._after_eval_iteration(**kwargs)

    def _embedded(self) -> tuple[Clip, Any]:
        """What other processes are told of this one's batch."""
        with torch.no_grad(), self.autocast():
            audio, video = self.backbone.embed(self.batch)
        nothing = {
            side: torch.full((), float("nan"), dtype=patches.dtype).expand(patches.shape)
            for side, patches in (("video", self.batch.video), ("audio", self.batch.audio))
        }
        return self.batch.replace(**nothing).to("cpu"), (audio.cpu(), video.cpu())

    # ---- clips -----------------------------------------------------------------------------------------

    def _unpack_minibatch(self) -> None:
        items, bad = self._agreed(*self.mbatch)
        for clip in self.bad.add(bad):
            log.warning("skipped %s", clip)
        if isinstance(items, UserError):
            raise items
        if items is None:
            self.batch = self.current = self._nothing()
            return
        check_items(items, self.backbone.grid.shape(self.backbone.patch))
        if self.is_training and "index" in items:
            items["index"] = self.loading.identity(items["index"])
        items = {key: value.to(self.device, non_blocking=True) for key, value in items.items()}
        self.batch = self.current = Clip.cut(
            frames=items["frames"].to(self.dtype),
            mel=items["mel"].to(self.dtype),
            patch=self.backbone.patch,
            index=items.get("index"),
            label=items.get("label"),
            task=items.get("task"),
        )

    def _agreed(self, items: Any, bad: list[BadClip]) -> tuple[Any, list[BadClip]]:
        """The same with the corrupt clips and the error, if there is any, of all processes."""
        wrong = isinstance(items, UserError)
        if not any(distributed.any_of(wrong, bool(bad))):
            return items, bad
        found = distributed.everyone((items if wrong else None, bad))
        errors = [error for error, _ in found if error is not None]
        return (errors[0] if errors else items), [clip for _, part in found for clip in part]

    def _nothing(self) -> Clip:
        """A batch without clips."""
        backbone = self.backbone
        parts = {key: torch.zeros(0, *size) for key, size in backbone.grid.shape(backbone.patch).tensors.items()}
        clip = Clip.cut(**parts, patch=backbone.patch).to(self.device, self.dtype)
        if self.is_training and self.loading.blind:
            return clip
        return clip.replace(label=clip.index, task=clip.index)

    # ---- state -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The whole state between two batches: what training depends on, as tensors, numbers and containers."""
        return {
            "backbone": self.model.state_dict(),
            "update": self.update.state_dict(),
            "generators": {name: g.get_state() for name, g in self.generators.items()},
            "strategies": [part.state_dict() for part in self.strategies],
            "clock": {key: value for key, value in vars(self.clock).items() if isinstance(value, int)},
            "tasks_done": self.tasks_done,
            "batches_done": self.batches_done,
            "bad_clips": dict(self.bad.reasons),
            "callbacks": [plugin.state_dict() for plugin in self._lasting],
            "own": self._own(),
        }

    def _own(self) -> dict[str, Any]:
        """What of the state only this process has: its rows of replay buffers, its gradients that wait."""
        held = [held for part in self.strategies for held in vars(part).values() if isinstance(held, Memory)]
        return {"rows": [memory.state_dict()["rows"] for memory in held], "gradients": self.update.gradients()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, in a learner made alike: what was trained is skipped, the rest follows identically.

        ``state["others"]``, if there: what processes 1 and on had for themselves when process 0 saved it. That there
        are more or fewer processes now changes no more than the rounding of sums.
        """
        others = state.get("others", ())
        self.model.load_state_dict(state["backbone"])
        self.update.load_state_dict(state["update"], [other["gradients"] for other in others])
        for name, value in state["generators"].items():
            self.generators[name].set_state(value)
        saved = iter(zip(*(other["rows"] for other in others), strict=True))
        for part, made in zip(self.strategies, state["strategies"], strict=True):
            for key in [key for key, held in vars(part).items() if isinstance(held, Memory) and others]:
                made = made | {key: made[key] | {"rows": [made[key]["rows"], *next(saved)]}}
            part.load_state_dict(made)
        for key, value in state["clock"].items():
            setattr(self.clock, key, value)
        self.tasks_done, self.batches_done = state["tasks_done"], state["batches_done"]
        self.bad.reasons = dict(state["bad_clips"])
        for plugin, held in zip(self._lasting, state["callbacks"], strict=True):
            plugin.load_state_dict(held)

    @property
    def _lasting(self) -> list[Any]:
        """The plugins that have state to save."""
        return [plugin for plugin in self.plugins if hasattr(plugin, "load_state_dict")]

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
"""Parameters of the learner that are no settings of a file's ``learner`` section; the seed, the last, is the run's."""


def settings_of_learner() -> Mapping[str, Setting]:
    """The learner's parameters that are plain settings, by name: those of a configuration file."""
    return fields(Learner, without=OBJECTS)


def check_output(output: Output, clips: int) -> None:
    """UserError where a backbone's loss terms are not one number a clip: a mean would train, and weigh wrongly."""
    for key, term in output.terms.items():
        if term.shape != (clips,):
            raise UserError(f"backbone: the loss term {key!r} is {tuple(term.shape)}; must be ({clips},), one a clip")


def _go_on(learner: Learner) -> None:
    """Nothing to do between two batches."""
