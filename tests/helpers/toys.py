"""A loop one step at a time, a counter of passes, and a backbone so simple that every step is a line of algebra."""

from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid, Masks, Output
from avcl.memory import Memory
from avcl.plugins.stella import Stella
from avcl.strategy import Rehearsal
from avcl.testing import Noise, small_backbone
from avcl.training.learner import Learner
from avcl.training.loading import Collate, Reader


def weights(module):
    """All weights of a module, or all trained ones of a learner, one after the other."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def train(learner, scenario=None, joint=False):
    """The whole stream; returns all weights."""
    for experience in (scenario or Noise()).benchmark(joint=joint).train_stream:
        learner.train(experience)
    return weights(learner)


def first_task(strategy, dtype=torch.float32, scenario=None, **settings):
    """A learner that has trained the first task."""
    learner = small_learner(strategy, dtype, **settings)
    learner.train((scenario or Noise()).benchmark().train_stream[0])
    return learner


def read(batch, task=0, dtype=torch.float64):
    """The clips of a batch of ``Batches``, augmented, as the loop reads them."""
    items, _ = Collate()([Reader(Noise().clips(task, "train"), 0)[key] for key in batch])
    return Clip.cut(items["frames"].to(dtype), items["mel"].to(dtype), 16, index=items["index"])


def clips(numbers, task=0, dtype=torch.float64):
    """Whole clips of the Noise scenario's first tasks."""
    data = Noise().clips(task, "train")
    items, _ = Collate()([data[number] for number in numbers])
    return Clip.cut(items["frames"].to(dtype), items["mel"].to(dtype), 16, index=items["index"])


def four(first, dtype=torch.float64):
    """The first task's clips ``first``, ``first + 1``, ``first + 2``, ``first + 3``."""
    return clips(range(first, first + 4), dtype=dtype)


def copy_of(generator):
    """A generator that will draw what ``generator`` is about to."""
    return torch.Generator().set_state(generator.get_state())


def small(cls, capacity=8, dtype="float64", **settings):
    """A strategy for the Noise scenario, with a replay buffer of ``capacity`` clips if it has one."""
    own = {"memory": Memory(capacity=capacity, dtype=dtype)} if issubclass(cls, Rehearsal) else {}
    own |= {"heads": 4, "chunk": 2} if issubclass(cls, Stella) else {}
    return cls(**own | settings)


def small_learner(strategy, dtype=torch.float32, seed=0, **settings):
    """A learner on a small backbone; the fixture ``make_learner``."""
    defaults = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "seed": seed}
    return Learner(backbone=small_backbone(dtype, seed), strategy=strategy, **(defaults | settings))


def fed(strategy, *firsts, dtype=torch.float64, each=lambda learner: None, **settings):
    """A learner after a step on ``four(first)`` for each of ``firsts``, and ``each(learner)`` after every one."""
    learner = small_learner(strategy, dtype, **settings)
    for first in firsts:
        step(learner, four(first))
        each(learner)
    return learner


def held(strategy):
    """All that is in a strategy's memory."""
    return strategy.memory.read(torch.arange(len(strategy.memory)))


def enter(learner, clip):
    """The learner as it is when a strategy prepares ``clip``."""
    learner.is_training, learner.current = True, clip.to(learner.dtype)
    learner.view.enter(learner.current)
    return learner


def step(learner, clip):
    """One batch through the learner's own loop."""
    enter(learner, clip).training_iteration()


def watched(learner):
    """Every batch that the backbone is given, with its masks, as training goes on."""
    seen, forward = [], learner.forward
    learner.forward = lambda: seen.append((learner.batch, learner.masks)) or forward()
    return seen


def same(found, expected):
    """Equal to what was recorded from the authors' code, whatever the shape."""
    torch.testing.assert_close(found.detach().double(), expected.double().reshape(found.shape), rtol=0, atol=1e-6)


@dataclass(kw_only=True, eq=False)
class Quadratic(Backbone):
    """loss = 1/2 |x - w|^2, where x is a clip's two numbers of video and one of sound."""

    name = "quadratic"
    dim, patch, grid = 1, 1, Grid(1, 1, 1, 1, 1)

    def __post_init__(self):
        super().__post_init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))

    def forward(self, clip, masks=None):
        x = numbers(clip)
        return Output(terms={"half": ((x - self.w) ** 2).sum(1) / 2}, video=x[:, :1], audio=x[:, 2:])

    def draw_masks(self, clip, generator=None):
        one = torch.zeros(len(clip), 1, dtype=torch.long)
        return Masks(video=one, audio=one, video_visible=1, audio_visible=1)


def numbers(clip):
    """What the quadratic backbone calls x, (B, 3)."""
    return torch.cat([clip.video[:, 0], clip.audio[:, 0]], dim=1)


def points(x):
    """Clips of the quadratic backbone from x (B, 3)."""
    at, x = torch.zeros(len(x), 1, dtype=torch.long), torch.as_tensor(x, dtype=torch.float64)
    return Clip(video=x[:, None, :2], audio=x[:, None, 2:], video_at=at, audio_at=at, index=torch.arange(len(x)))


def quadratic_learner(strategy, rate):
    """The quadratic backbone under plain gradient descent."""
    sgd = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=rate), "weight_decay": 0.0}
    return Learner(backbone=Quadratic(), strategy=strategy, **sgd)


class Passes:
    """Counts, by hooks, the passes through a backbone: encoder and decoder forward, and backward; and their clips."""

    def __init__(self, backbone):
        self.count, self.clips = Counter(), []
        backbone.audio.embed.register_forward_hook(lambda _, given, made: self.clips.append(len(made)))
        backbone.audio.head.register_forward_hook(lambda *_: self.count.update(["forward"]))
        backbone.audio.head.register_full_backward_hook(lambda *_: self.count.update(["backward"]))

    @property
    def seen(self):
        """(whole forward passes, forward passes of embeddings alone, backward passes)."""
        return self.count["forward"], len(self.clips) - self.count["forward"], self.count["backward"]

    def clear(self):
        self.count.clear()
        self.clips.clear()


@dataclass(kw_only=True)
class NoiseWithTruth(Noise):
    """Noise of which the first patch of both frames, and the second half of the sound, is said to be the source."""

    def clips(self, task, split):
        return _Known(super().clips(task, split))


class _Known:
    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, i):
        return self.clips[i]

    def truth(self, i):
        mask = torch.zeros(2, 32, 32, dtype=torch.bool)
        mask[:, :16, :16] = True
        return SimpleNamespace(mask=mask, interval=(32, 64))
