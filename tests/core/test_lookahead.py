"""The preview of a step is the step, bit for bit, and leaves no trace."""

from dataclasses import dataclass

import pytest
import torch
from helpers.toys import clips, enter, fed, four, numbers, points, quadratic_learner, step, weights
from torch import nn
from torch.func import functional_call

from avcl.lookahead import gradients, virtual_step
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.testing.toys import small_backbone
from avcl.training.learner import Learner

OPTIMIZERS = {
    "adam": "adam",
    "adamw": "adamw",
    "amsgrad": lambda groups: torch.optim.Adam(groups, lr=1e-3, amsgrad=True, eps=1e-4),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, centered=True),
}


@dataclass(kw_only=True)
class Looks(Strategy):
    """Looks ahead under the masks of the coming step, and compares when it was taken."""

    name = "looks"

    def begin(self, learner):
        self.own = nn.Linear(24, 1)
        self.steps = 0

    def prepare(self, learner):
        learner.generators["auxiliary"].set_state(learner.generators["mask"].get_state())
        self._ahead = virtual_step(learner, learner.batch)

    def penalty(self, learner):
        return {"own": self.own(learner.output.audio.detach()).square().mean()}

    def observe(self, learner):
        now = {name: p for name, p in learner.backbone.named_parameters() if p.requires_grad}
        assert now.keys() == self._ahead.keys()
        assert all(torch.equal(p, self._ahead[name]) for name, p in now.items())
        self.steps += 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_I5_the_preview_is_the_step(optimizer, dtype):
    """Decay in one group and none in the other, a rate that rises, and a module that is not the backbone's."""
    looks = Looks()
    fed(looks, *range(5), dtype=dtype, optimizer=OPTIMIZERS[optimizer], warmup=3, weight_decay=0.1)
    assert looks.steps == 5


def test_it_clips_as_the_learner_does():
    looks = Looks()
    learner = fed(looks, clip_norm=1e-3, optimizer=OPTIMIZERS["momentum"])
    with torch.no_grad():
        nn.init.zeros_(looks.own.weight), nn.init.zeros_(looks.own.bias)  # its gradient would be part of the norm
    step(learner, four(0))
    assert looks.steps == 1
    norm = torch.cat([p.grad.flatten() for p in learner.backbone.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def state(learner):
    """Everything that a step changes, copied."""
    return [
        weights(learner),
        *(p.grad.clone() for p in learner.parameters() if p.grad is not None),
        *(value.clone() for values in learner.optimizer.state.values() for value in values.values()),
        *(learner.generators[name].get_state() for name in ("mask", "memory", "method")),
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_I4_no_trace_is_left(optimizer):
    """Neither in weights, nor in gradients that wait for their step, nor in the optimizer, nor in its groups."""
    learner = fed(Finetune(), 0, 1, 2, optimizer=OPTIMIZERS[optimizer], accumulate=2, warmup=3)
    assert learner.pending == 1
    before, groups = state(learner), [dict(group) for group in learner.optimizer.param_groups]
    ahead = virtual_step(learner, clips(range(8)))
    assert all(torch.equal(one, two) for one, two in zip(before, state(learner), strict=True))
    assert [dict(group) for group in learner.optimizer.param_groups] == groups
    assert not any(value.requires_grad for value in ahead.values())
    ours = {p.data_ptr() for p in learner.parameters()}
    assert not ours & {value.data_ptr() for value in ahead.values()}


def test_gradients_that_wait_are_not_part_of_it():
    one, two = fed(Finetune()), fed(Finetune(), 4, accumulate=3)
    two.generators["auxiliary"].set_state(one.generators["auxiliary"].get_state())
    expected, found = (virtual_step(learner, four(0)) for learner in (one, two))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_by_hand_on_a_parabola():
    """Plain descent at rate 0.3 goes three tenths of the way to the mean of the clips."""
    learner = quadratic_learner(Finetune(), rate=0.3)
    clip = points(torch.tensor([[1.0, 2.0, 3.0], [3.0, -2.0, 5.0]], dtype=torch.float64))
    start = learner.backbone.w.detach().clone()
    ahead = virtual_step(enter(learner, clip), clip)
    torch.testing.assert_close(ahead["w"], start + 0.3 * (numbers(clip).mean(0) - start))
    loss = functional_call(learner.backbone, ahead, (clip,)).loss
    torch.testing.assert_close(loss, ((numbers(clip) - ahead["w"]) ** 2).sum(1) / 2)
    assert torch.equal(learner.backbone.w, start)


def test_frozen_weights_are_not_in_it():
    backbone = small_backbone()
    backbone.requires_grad_(False)
    backbone.decoder_embed.requires_grad_(True)
    learner = Learner(backbone=backbone, strategy=Finetune())
    ahead = virtual_step(enter(learner, four(0)), learner.batch)
    assert set(ahead) == {"decoder_embed.weight", "decoder_embed.bias"}


def test_small_gradients_survive_half_precision(make_learner):
    """The loss is scaled on the way back: what fp16 would round to nothing agrees with float32."""
    clip = four(0, torch.float32)
    found = []
    for learner in (make_learner(Finetune()), make_learner(Finetune(), precision="fp16")):
        trained = [p for p in learner.backbone.parameters() if p.requires_grad]
        masks = learner.backbone.draw_masks(clip, torch.Generator().manual_seed(0))
        with learner.autocast():
            loss = 1e-6 * learner.backbone(clip, masks).loss.mean()
            found.append(torch.cat([g.flatten() for g in gradients(learner, loss, trained)]))
            plain = torch.autograd.grad(1e-6 * learner.backbone(clip, masks).loss.mean(), trained)
    exact, scaled = found
    unscaled = torch.cat([gradient.flatten() for gradient in plain])
    assert (scaled - exact).norm() < 0.02 * exact.norm()
    assert (unscaled - exact).norm() > 0.1 * exact.norm()


def test_where_half_precision_overflows_nothing_moves(make_learner):
    learner = make_learner(Finetune(), precision="fp16")
    learner.update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    clip = four(0, torch.float32)
    with learner.autocast():
        assert virtual_step(enter(learner, clip), clip) == {}
        loss = learner.backbone(clip, learner.backbone.draw_masks(clip)).loss.mean()
        assert gradients(learner, loss, [learner.backbone.norm.weight]) is None


def test_what_has_no_part_in_the_loss_has_no_gradient(make_learner):
    learner = make_learner(Finetune())
    apart = torch.zeros(2, requires_grad=True)
    first, second = gradients(learner, learner.backbone.norm.weight.sum(), [learner.backbone.norm.weight, apart])
    assert first.tolist() == [1.0] * 24
    assert second is None
