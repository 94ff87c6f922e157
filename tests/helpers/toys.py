"""A loop one step at a time, a counter of passes, and a backbone so simple that every step is a line of algebra."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid, Masks, Output
from avcl.testing import Noise
from avcl.training.learner import Learner
from avcl.training.loading import Collate


def weights(learner):
    """All trained weights, one after the other."""
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def train(learner, scenario=None, joint=False):
    """The whole stream; returns all weights."""
    for experience in (scenario or Noise()).benchmark(joint=joint).train_stream:
        learner.train(experience)
    return weights(learner)


def clips(numbers, task=0, dtype=torch.float64):
    """Whole clips of the Noise scenario's first tasks."""
    data = Noise().clips(task, "train")
    items, _ = Collate()([data[number] for number in numbers])
    return Clip.cut(items["frames"].to(dtype), items["mel"].to(dtype), 16, index=items["index"])


def copy_of(generator):
    """A generator that will draw what ``generator`` is about to."""
    return torch.Generator().set_state(generator.get_state())


def enter(learner, clip):
    """The learner as it is when a strategy prepares ``clip``."""
    learner.is_training, learner.batch, learner.current, learner.num_current = True, clip, clip, len(clip)
    learner.weight, learner.apart = None, []
    return learner


def step(learner, clip):
    """One batch through the learner's own loop."""
    enter(learner, clip).training_iteration()


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
    at = torch.zeros(len(x), 1, dtype=torch.long)
    return Clip(video=x[:, None, :2], audio=x[:, None, 2:], video_at=at, audio_at=at, index=torch.arange(len(x)))


def quadratic_learner(strategy, rate):
    """The quadratic backbone under plain gradient descent."""
    return Learner(
        backbone=Quadratic(),
        strategy=strategy,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=rate),
        weight_decay=0.0,
    )


class Passes:
    """Counts, by hooks, the passes through a backbone: encoder and decoder forward, and backward; and their clips."""

    def __init__(self, backbone):
        self.count = Counter()
        self.clips = []
        backbone.audio.embed.register_forward_hook(self._encoded)
        backbone.audio.head.register_forward_hook(self._decoded)
        backbone.audio.head.register_full_backward_hook(self._back)

    def _encoded(self, module, inputs, output):
        self.count["encoded"] += 1
        self.clips.append(len(output))

    def _decoded(self, module, inputs, output):
        self.count["forward"] += 1

    def _back(self, module, into, out):
        self.count["backward"] += 1

    @property
    def seen(self):
        """(whole forward passes, forward passes of embeddings alone, backward passes)."""
        return self.count["forward"], self.count["encoded"] - self.count["forward"], self.count["backward"]

    def clear(self):
        self.count.clear()
        self.clips.clear()
