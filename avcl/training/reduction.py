"""Gradients of several processes, averaged while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from avcl.utils.distributed import world_size


class Reduction:
    """Means of gradients over processes, in buckets that travel while the backward pass goes on.

    A bucket is sent when the gradients of all its parameters are there, in the same order everywhere; what is not
    used in a step comes last. A parameter without gradient in every process stays without one.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_bytes: int = 25 * 2**20):
        self.buckets: list[list[nn.Parameter]] = []
        room = 0
        for parameter in reversed([p for p in parameters if p.requires_grad]):  # about the order of the backward pass
            size = parameter.numel() * parameter.element_size()
            if size > room or self.buckets[-1][0].dtype != parameter.dtype:
                self.buckets.append([])
                room = bucket_bytes
            self.buckets[-1].append(parameter)
            room -= size
        self._bucket_of = {p: number for number, bucket in enumerate(self.buckets) for p in bucket}
        # a group of its own: its messages never mix with those of the backward pass
        self._group: Any = dist.new_group(backend=dist.get_backend())
        self._sent: list[tuple[Tensor, Any]] = []
        self._missing: list[int] = []
        self.listening = False
        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def listen(self) -> None:
        """The next backward pass is the last before a step: send what is ready."""
        self._missing, self._sent, self.listening = [len(bucket) for bucket in self.buckets], [], True

    def finish(self) -> None:
        """Send the rest, wait, and put means in the gradients' place."""
        if not self.listening:
            self.listen()
        self.listening = False
        while len(self._sent) < len(self.buckets):
            self._send()
        for bucket, (flat, work) in zip(self.buckets, self._sent, strict=True):
            work.wait()
            flat /= world_size()
            *parts, used = flat.split([*(p.numel() for p in bucket), len(bucket)])
            # what has a gradient here has one: only for the others the numbers are looked at, which waits for a GPU
            there = [True] * len(bucket) if all(p.grad is not None for p in bucket) else used.tolist()
            for parameter, part, found in zip(bucket, parts, there, strict=True):
                parameter.grad = part.view_as(parameter) if found else None
        self._sent = []

    def _arrived(self, parameter: nn.Parameter) -> None:
        if self.listening:
            self._missing[self._bucket_of[parameter]] -= 1
            while len(self._sent) < len(self.buckets) and self._missing[len(self._sent)] <= 0:
                self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self._sent)]
        used = [parameter.grad is not None for parameter in bucket]
        rows = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([*(row.reshape(-1) for row in rows), rows[0].new_tensor(used)])
        self._sent.append((flat, dist.all_reduce(flat, group=self._group, async_op=True)))
