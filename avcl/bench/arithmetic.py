"""Multiply-adds of a training step, and how many of them a device does in a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from avcl.bench.stages import Spent, Stages


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""PyTorch counts attention on a GPU, and has left it out on a CPU."""

OWN = ("aten", "prim", "prims", "profiler")
SIDES = {"cpu": 1024, "cuda": 8192}
LEAST = 0.2  # seconds for which the matrix product is repeated


def multiply_adds(stages: Stages) -> tuple[dict[str, int], list[str]]:
    """Multiply-adds of the next step by stage, and the ops of plugins that have no formula.

    Counted by PyTorch's ``FlopCounterMode``: matrix products, convolutions, attention, and ops of plugins that have a
    formula (``torch.utils.flop_counter.register_flop_formula``). Not counted: what is done number by number (norms,
    softmax, activations, the optimizer), sorting, drawing, copying.
    """
    missing = {op: formula for op, formula in ATTENTION.items() if op not in flop_registry}
    counter = FlopCounterMode(display=False, custom_mapping=missing)
    spent = Spent(lambda: counter.get_total_flops() // 2)
    with _Foreign() as foreign, counter, stages.watched(spent):
        stages.advance()
    return {stage: int(count) for stage, count in spent.by_stage.items()}, sorted(foreign.seen)


class _Foreign(TorchDispatchMode):
    """Names of ops that are not PyTorch's own and have no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in OWN and func.overloadpacket not in flop_registry:
            self.seen.add(f"{func.namespace}::{func.overloadpacket.__name__}")
        return func(*args, **(kwargs or {}))


def matrix_speed(device: torch.device, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Multiply-adds a second in products of large square matrices."""
    side = SIDES[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    begun, products = clock(), 0
    while not products or clock() - begun < LEAST:
        torch.mm(left, right)
        products += 1
    return products * side**3 / (clock() - begun)


def clock_of(device: torch.device, cpu_time: bool = False) -> Callable[[], float]:
    """Seconds on the wall, or of the processor, once the device has done all that it was asked to."""
    clock = time.process_time if cpu_time else time.perf_counter
    if device.type != "cuda":
        return clock

    def waited() -> float:
        torch.cuda.synchronize(device)
        return clock()

    return waited
