"""What each of several processes does with its rows: a module of its own, so that they can import it."""

import torch

from avcl.clip import Clip
from avcl.memory import Memory
from avcl.utils import distributed


def crossings():
    """What one of three processes finds; process r has r rows, so that the first has none."""
    rank = distributed.rank()
    mine = torch.arange(rank, dtype=torch.float64)[:, None] + 10 * rank
    mine.requires_grad_()
    everything = distributed.gather(mine)
    (everything * (rank + 1)).sum().backward()
    named = {"number": torch.arange(4) + 10 * rank, "half": torch.full((4, 2, 3), float(rank)).bfloat16()}
    taken = distributed.take(named, torch.tensor([2, 0, 2]), torch.tensor([3, 2, 0]))
    with distributed.alone():
        alone = distributed.gather(mine).shape[0], distributed.place(4), distributed.share_of(4)
    generator = torch.Generator().manual_seed(1)
    return {
        "place": distributed.place(rank),
        "gathered": everything.detach().flatten().tolist(),
        "gradient": mine.grad.flatten().tolist(),
        "taken": (taken["number"].tolist(), taken["half"][:, 1, 2].tolist(), taken["half"].dtype),
        "rows": distributed.rows_at({"x": mine}, torch.tensor([2, 0]))["x"].flatten().tolist(),
        "paired": distributed.paired({"x": mine}, 2)["x"].flatten().tolist(),
        "rand": distributed.rand((rank, 1), 3, generator),
        "mean": float(distributed.mean(mine)),
        "balanced": float(distributed.balanced(torch.tensor(6.0), rank)),
        "average": distributed.average({"rank": torch.tensor(float(rank))})["rank"].item(),
        "total": [x if x is None else x.tolist() for x in distributed.total([torch.ones(2) * rank, None])],
        "any": distributed.any_of(rank == 2, False),
        "share": [distributed.share_of(7), distributed.share_of(2)],
        "first": distributed.from_first(lambda: f"made by {rank}"),
        "everyone": distributed.everyone(rank),
        "alone": alone,
    }


def clips(first, count):
    patches = torch.arange(first, first + count, dtype=torch.float32)[:, None, None].expand(-1, 2, 3)
    at = torch.arange(2).expand(count, -1)
    return Clip(patches, patches, at, at, torch.arange(first, first + count))


def remembered(state=None):
    """A memory of seven, offered forty clips in batches that are spread unevenly; what is drawn of it, and its rows."""
    memory = Memory(capacity=7)
    memory.open(torch.Generator().manual_seed(0))
    if state is not None:
        memory.load_state_dict(state)
        return memory.sample(7).clip.index
    for first in range(0, 40, 4):
        split = [(0, 4), (4, 4)] if first % 8 else [(0, 1), (1, 4)]
        begin, end = split[distributed.rank()] if distributed.spread() else (0, 4)
        memory.add(clips(first + begin, end - begin), twice=2.0 * torch.arange(first + begin, first + end))
    past = memory.sample(5)
    memory.write(past.slots, twice=past.extra["twice"] + 1)
    again = memory.read(past.slots)
    assert torch.equal(again.extra["twice"], 2.0 * past.clip.index + 1)
    assert torch.equal(again.clip.video[:, 0, 0], past.clip.index.float())
    return past.clip.index, memory.state_dict(), memory.nbytes, memory.full_bytes


def both(state):
    """Both of them, the memory gone on with from ``state``."""
    return crossings(), remembered(state)
