"""Training of a head: its schedule, its groups, its best epoch, and the same bytes for the same seed."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from avcl.errors import SettingsError
from avcl.evaluation import head as module
from avcl.evaluation.head import HeadEvaluation, best_epoch


@dataclass(kw_only=True)
class Own(HeadEvaluation):
    name = "own"


def clips(count=24, dim=4):
    """Features whose class is the sign of their first number."""
    values = torch.randn(count, dim, generator=torch.Generator().manual_seed(3))
    return values, (values[:, 0] > 0).long()


def head(dim=4):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(dim, 8), nn.Tanh(), nn.Linear(8, 2))


def fitted(evaluation, score=None, seed=0, net=None, orders=None):
    values, target = clips()
    net = net or head()

    def loss(rows, epoch):
        if orders is not None:
            orders.append((epoch, rows.tolist()))
        return cross_entropy(net(values[rows]), target[rows])

    def accuracy():
        return float((net(values).argmax(1) == target).double().mean())

    return net, evaluation.fit(net, len(values), loss, score or accuracy, seed)


def test_it_learns_and_the_same_seed_gives_the_same_bytes():
    evaluation = Own(epochs=12, batch_size=6, lr=5e-2)
    (one, history), (two, again), (other, _) = (fitted(evaluation, seed=seed) for seed in (0, 0, 1))
    assert history == again
    assert max(history) > 0.9
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one[0].weight, other[0].weight)


def test_the_first_best_epoch_is_kept():
    told, states = iter([0.2, 0.7, 0.7, 0.1]), []
    net = head()

    def score():
        assert not net.training
        assert not torch.is_grad_enabled()
        states.append([p.clone() for p in net.parameters()])
        return next(told)

    _, history = fitted(Own(epochs=4, batch_size=6, lr=1e-2), score, net=net)
    assert history == [0.2, 0.7, 0.7, 0.1]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), states[1], strict=True))
    assert not torch.equal(net[0].weight, states[2][0])
    assert best_epoch(history) == {"best_epoch": 2, "epochs": history}


def test_every_epoch_visits_every_clip_once_in_another_order():
    orders = []
    fitted(Own(epochs=2, batch_size=10), orders=orders)
    assert [(epoch, len(rows)) for epoch, rows in orders] == [(0, 10), (0, 10), (0, 4), (1, 10), (1, 10), (1, 4)]
    first, second = ([row for epoch, rows in orders if epoch == number for row in rows] for number in (0, 1))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_warm_up_then_cosine_to_zero_and_no_decay_for_vectors(monkeypatch):
    rates, groups = [], []

    class Watched(torch.optim.AdamW):
        def __init__(self, given, **settings):
            super().__init__(given, **settings)
            groups.extend(self.param_groups)

        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(module.torch.optim, "AdamW", Watched)
    fitted(Own(epochs=4, batch_size=6, warmup=1, lr=0.1, weight_decay=0.5))
    # 4 steps of an epoch: linear from 1/100, then (1 + cos(pi t / 16)) / 2 of the rate
    linear = [0.001 + t * (0.1 - 0.001) / 4 for t in range(4)]
    cosine = [0.05 * (1 + torch.tensor(torch.pi * t / 16).cos().item()) for t in range(4, 16)]
    assert rates == pytest.approx(linear + cosine, rel=1e-5)
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.5, [2, 2]),
        (0.0, [1, 1]),
    ]


def test_settings_are_validated():
    with pytest.raises(SettingsError) as caught:
        Own(epochs=0, lr=-1.0, betas=(0.9, 1.0))
    assert [line.partition(":")[0] for line in caught.value.mistakes] == ["epochs", "lr", "betas.1"]
