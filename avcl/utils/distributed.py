"""Several processes that train as one: who has which clips, and how rows, means and draws cross between them.

Every batch is spread over the processes, in runs of neighbouring rows by rank. A method's result does not depend on
how many they are: draws are those of one process for all clips, means are over all of them, the replay buffer is one.
All functions but ``world_size`` and ``rank`` are collective: every process calls them, in the same order.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from avcl.errors import StoppedError, UserError

T = TypeVar("T")
PATIENCE = datetime.timedelta(minutes=30)
"""How long a process waits for another one: evaluation and checkpoints of rank 0 are in it."""

_alone = False


def world_size() -> int:
    """How many processes train together; 1 when torch.distributed was not set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> int:
    """How many processes a launcher (torchrun, Slurm's by submitit) started for this run; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextlib.contextmanager
def joined(device: str | torch.device) -> Iterator[torch.device]:
    """Within this block the processes that a launcher started are one group; yields this one's device.

    CUDA devices go by the local rank; UserError where there are too few, or one is named by its number.
    """
    device = torch.device(device)
    if launched() == 1 or world_size() > 1:
        yield device
        return
    if device.type == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device.index is not None or local >= there:
            raise UserError(f"device: {there} CUDA devices for processes that need one each; start fewer, or name none")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    except Exception as error:
        if isinstance(error, StoppedError):  # all of them stop; after any other error nobody is there to say goodbye to
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within this block every process holds the same clips, as in evaluation: nothing is spread."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def spread() -> bool:
    """Whether the rows of a batch are spread over processes."""
    return world_size() > 1 and not _alone


class Place(NamedTuple):
    """Where this process's rows are among those of all: from ``start`` on, of ``total``; ``sizes`` by rank."""

    start: int
    total: int
    sizes: tuple[int, ...]


def place(rows: int) -> Place:
    """The place of this process's ``rows``."""
    if not spread():
        return Place(0, rows, (rows,))
    sizes = tuple(table([rows])[:, 0].tolist())
    return Place(sum(sizes[: rank()]), sum(sizes), sizes)


def share_of(rows: int) -> slice:
    """Which of ``rows`` that every process knows are this one's: an even share, neighbours."""
    if not spread():
        return slice(0, rows)
    return slice(rows * rank() // world_size(), rows * (rank() + 1) // world_size())


def table(numbers: Sequence[int]) -> Tensor:
    """The whole ``numbers`` of every process, (world, len)."""
    mine = torch.tensor(numbers, dtype=torch.int64)
    if world_size() == 1:
        return mine[None]
    found = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(found, mine)
    return torch.stack(found)


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is up in any process."""
    return flags if world_size() == 1 else tuple(table(list(map(int, flags))).any(0).tolist())


def everyone(value: T) -> list[T]:
    """The ``value`` of every process by rank; pickled, for what is rare."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def from_first(make: Callable[[], T]) -> T:
    """What process 0 makes, and every other one is told; an error of ``make`` is raised in all of them."""
    if world_size() == 1:
        return make()
    told: list[Any] = [None, None]
    if rank() == 0:
        try:
            told[0] = make()
        except Exception as error:
            told[1] = error
    dist.broadcast_object_list(told)
    if told[1] is not None:
        raise told[1]
    return told[0]


# ---- rows ------------------------------------------------------------------------------------------------


def gather(rows: Tensor) -> Tensor:
    """The rows (B, ...) of every process in rank order; B may differ, and gradients flow back to their owner."""
    return _Gather.apply(rows, place(len(rows))) if spread() else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, where: Place) -> Tensor:
        ctx.where = where
        return all_rows(rows, where.sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.where.start :][: ctx.where.sizes[rank()]], None


def all_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of every process, so many each, in rank order; without gradient."""
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])


def send(rows: Mapping[str, Tensor], to: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Send the i-th of ``rows (N, ...)`` to process ``to (N,)[i]``.

    Returns what came, sender by sender, and the sender of each.
    """
    order, world = to.argsort(stable=True), world_size()
    counts = torch.bincount(to, minlength=world).tolist()
    came = table(counts)[:, rank()].tolist()
    packed = torch.cat([_bytes(value)[order.to(value.device)] for value in rows.values()], dim=1)
    width = packed.shape[1]
    flat = packed.new_empty(sum(came), width)
    dist.all_to_all_single(
        flat.view(-1), packed.view(-1), [count * width for count in came], [count * width for count in counts]
    )
    found, at = {}, 0
    for key, value in rows.items():
        wide = _bytes(value).shape[1]
        part = flat.new_empty(len(flat), wide).copy_(flat[:, at : at + wide]).view(-1).view(value.dtype)
        found[key], at = part.view(len(flat), *value.shape[1:]), at + wide
    return found, torch.arange(world).repeat_interleave(torch.tensor(came))


def _bytes(rows: Tensor) -> Tensor:
    width = math.prod(rows.shape[1:]) * rows.element_size()
    return rows.detach().contiguous().view(-1).view(torch.uint8).view(len(rows), width)


def take(rows: Mapping[str, Tensor], owner: Tensor, number: Tensor) -> dict[str, Tensor]:
    """For each i of this process's wishes, row ``number (N,)[i]`` of process ``owner (N,)[i]``, in that order."""
    if world_size() == 1:
        return {key: value[number.to(value.device)] for key, value in rows.items()}
    asked, by = send({"number": number}, owner)
    mine = {key: value[asked["number"].to(value.device)] for key, value in rows.items()}
    came, _ = send(mine, by)
    place_of = owner.argsort(stable=True).argsort()
    return {key: value[place_of.to(value.device)] for key, value in came.items()}


def rows_at(rows: Mapping[str, Tensor], wanted: Tensor) -> dict[str, Tensor]:
    """The rows with the numbers ``wanted (N,)`` among those of all processes, without gradient."""
    if not spread():
        return {key: value[wanted.to(value.device)] for key, value in rows.items()}
    sizes = place(len(next(iter(rows.values())))).sizes
    ends = torch.tensor(sizes).cumsum(0)
    owner = torch.bucketize(wanted, ends, right=True)
    return take(rows, owner, wanted - (ends - torch.tensor(sizes))[owner])


def paired(rows: Mapping[str, Tensor], clips: int) -> dict[str, Tensor]:
    """A row for each of this process's ``clips``: the i-th of all clips has the i-th of all rows, in a circle."""
    mine, there = place(clips), place(len(next(iter(rows.values()))))
    return rows_at(rows, (mine.start + torch.arange(clips)) % there.total)


def rand(parts: Sequence[int], columns: int, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers (B, columns) for rows in ``parts`` that were put together: B is their sum.

    They are those that one process draws for the rows of all, part by part, so that every process's generator stays
    where the others' are.
    """
    if not spread():
        return torch.rand(sum(parts), columns, generator=generator)
    sizes = table(parts)
    drawn = torch.rand(int(sizes.sum()), columns, generator=generator).split(sizes.sum(0).tolist())
    before = sizes[: rank()].sum(0).tolist()
    return torch.cat([part[start : start + mine] for part, start, mine in zip(drawn, before, parts, strict=True)])


# ---- means -----------------------------------------------------------------------------------------------


def mean(values: Tensor) -> Tensor:
    """The mean of ``values (B,)``, over the clips of all processes, as this one's part: the mean of all parts."""
    if not spread():
        return values.mean()
    return values.sum() * (world_size() / max(1, place(len(values)).total))


def balanced(value: Tensor, rows: int) -> Tensor:
    """A mean over this process's ``rows`` as its part of the mean over all, where processes have different numbers."""
    if not spread():
        return value
    total = max(1, place(rows).total)
    return value * (rows * world_size() / total) if rows else torch.zeros_like(value)


def average(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of every scalar over processes, by name."""
    if not spread() or not values:
        return dict(values)
    mine = torch.stack([value.detach().double() for value in values.values()])
    dist.all_reduce(mine)
    means = (mine / world_size()).unbind()
    return {key: found.to(value) for (key, value), found in zip(values.items(), means, strict=True)}


def total(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The sum over processes of each tensor, coalesced; None where it is in every process, as it then is here."""
    if not spread():
        return list(tensors)
    there = [tensor for tensor in tensors if tensor is not None]
    sums = iter(())
    if there:
        flat = torch.cat([tensor.reshape(-1) for tensor in there])
        dist.all_reduce(flat)
        sums = iter(flat.split([tensor.numel() for tensor in there]))
    return [None if tensor is None else next(sums).view_as(tensor) for tensor in tensors]
