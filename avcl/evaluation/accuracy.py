"""Accuracy of predicted classes: top k, and the classes that can be predicted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def top_k(scores: Tensor, target: Tensor, ks: Sequence[int]) -> Tensor:
    """Whether each row's class ``target (N,)`` is among the k highest ``scores (N, C)``: (N, len(ks)), percent.

    Among classes of equal score the order is random: the expected hit is returned, so that a head that says nothing
    is at chance. What is not a number is never a hit.
    """
    own = scores.gather(1, target[:, None])
    higher = (~(scores <= own)).sum(1, keepdim=True)
    equal = (scores == own).sum(1, keepdim=True).clamp(min=1)
    return 100 * ((torch.tensor(ks, device=scores.device) - higher) / equal).clamp(0, 1)


def top_k_chance(classes: int, k: int) -> float:
    """Chance of ``top_k``, percent."""
    return 100 * min(k / classes, 1.0)


def places(classes: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each ``label (N,)`` in ascending ``classes (C,)``, and whether it is there, both (N,)."""
    place = torch.searchsorted(classes, label).clamp(max=len(classes) - 1)
    return place, classes[place] == label


def per_task(hits: Tensor, task: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The mean of ``hits (N,)`` by the name of each task that has clips."""
    numbers = [int(number) for number in task.unique()]
    return {names[n] if 0 <= n < len(names) else str(n): float(hits[task == n].double().mean()) for n in numbers}
