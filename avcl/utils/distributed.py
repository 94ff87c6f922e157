"""Several processes, one gradient: gather that differentiates, rank zero, the mean of gradients."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """How many processes train together; 1 when torch.distributed was not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """The rows (B, ...) of every process in rank order, (B * world, ...); gradients flow back to their owner.

    Every process must hold the same number of rows.
    """
    return torch.cat(all_gather(rows)) if world_size() > 1 else rows


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes (a no-op when alone).

    Done by hand after backward rather than by a wrapper, so that virtual steps, auxiliary modules and
    gradient accumulation need no special cases.
    """
    if world_size() == 1:
        return
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()
