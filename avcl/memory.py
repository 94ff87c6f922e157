"""The replay buffer: reservoir sampling (Vitter's algorithm R) of clips and of whatever is stored beside them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from avcl.clip import Clip
from avcl.errors import UserError
from avcl.settings import Component
from avcl.utils import distributed

_POSITION = torch.int16  # a grid has far fewer than 32,768 patches
_CLIP_PARTS = ("video", "audio", "video_at", "audio_at", "index")


def _machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _front(rows: Tensor, count: int) -> Tensor:
    """The first ``count`` rows in a storage that ends with them: saving writes no more than those, and copies none."""
    shape = (count, *rows.shape[1:])
    storage = rows.untyped_storage()[: math.prod(shape) * rows.element_size()]
    return rows.new_empty(0).set_(storage, 0, shape, rows.stride())


@dataclass(frozen=True)
class Past:
    """Replayed clips: their ``slots (R,)``, the ``clip`` of R rows, and what was stored beside them."""

    slots: Tensor
    clip: Clip
    extra: Mapping[str, Tensor]

    def to(self, device: torch.device, dtype: torch.dtype) -> Past:
        """The same on ``device``, all that are no integers as ``dtype``; slots stay with the memory, on the CPU."""
        extra = {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in self.extra.items()}
        return Past(self.slots, self.clip.to(device, dtype), extra)

    def __len__(self) -> int:
        return len(self.clip)


@dataclass(kw_only=True, eq=False)
class Memory(Component):
    """Replay buffer: a uniform sample of all clips offered so far, by reservoir sampling, kept on the CPU.

    J. S. Vitter, *Random sampling with a reservoir*, 1985. Each offered clip, in order: while there is room it
    takes the next slot; afterwards it draws one of ``seen + 1`` numbers and overwrites that slot if there is one.
    Every clip stays with probability ``capacity / seen`` exactly. Several processes share one memory: they draw the
    same numbers, slots are dealt to them in turn, and clips travel to where they are stored or replayed.

    Args:
        capacity: Clips, over all processes: each holds an even share of them.
        budget_bytes: Instead of capacity, as many clips as fit into so many bytes; null for capacity.
        dtype: Precision in which patches, embeddings and scores are stored.
    """

    capacity: NonNegativeInt = 2000
    budget_bytes: PositiveInt | None = None
    dtype: Literal["float64", "float32", "bfloat16", "float16"] = "float32"

    def open(self, generator: torch.Generator, capacity: int | None = None) -> None:
        """Start empty, drawing from ``generator`` alone; with room for another number of clips if one is given."""
        self.generator = generator
        self.seen = 0
        self._rows: dict[str, Tensor] = {}
        self._slots = self.capacity if capacity is None else capacity

    def add(self, clip: Clip, **extra: Tensor) -> None:
        """Offer B clips, each with its row of every ``extra (B, ...)``; all are copied, none is kept alive.

        Names and shapes are fixed by the first call; later ones that differ raise ValueError.
        """
        rows = {key: value for key, value in clip.tensors().items() if key in _CLIP_PARTS}
        rows = {key: self._stored(key, value) for key, value in (rows | extra).items()}
        if not self._rows:
            self._reserve(rows)
        self._check(rows)
        where = distributed.place(len(clip))
        taken = {slot: row - where.start for slot, row in self._place(where.total).items()}
        mine = {slot: row for slot, row in taken.items() if 0 <= row < len(clip)}
        source = torch.tensor(list(mine.values()), dtype=torch.long)
        self._store(torch.tensor(list(mine), dtype=torch.long), {key: value[source] for key, value in rows.items()})

    def sample(self, count: int) -> Past:
        """``min(count, len)`` distinct clips over all processes, uniformly, of which each gets an even share.

        Raises ValueError when there are none.
        """
        if not len(self):
            raise ValueError("memory.sample: the memory is empty; ask len(memory) first")
        drawn = torch.randperm(len(self), generator=self.generator)[:count]
        return self.read(drawn[distributed.share_of(len(drawn))])

    def read(self, slots: Tensor) -> Past:
        """The clips in ``slots (R,)``, whichever process holds them."""
        world = distributed.world_size()
        rows = distributed.take(self._rows, slots % world, slots // world)
        clip = Clip.of({key: rows.pop(key) for key in _CLIP_PARTS})
        return Past(slots, clip.to(clip.video.dtype), rows)

    def write(self, slots: Tensor, **tensors: Tensor) -> None:
        """Overwrite named parts (``video``, ``audio`` or an extra) of ``slots (R,)``; the rest stays as it is."""
        for key in tensors:
            if key not in self._rows:
                raise ValueError(f"memory.write: nothing called {key!r} is stored; stored: {', '.join(self._rows)}")
        self._store(slots, {key: self._stored(key, value) for key, value in tensors.items()})

    @property
    def nbytes(self) -> int:
        """Bytes that the stored clips take, with all that is stored beside them."""
        return len(self) * self._item_bytes(self._rows)

    @property
    def full_bytes(self) -> int:
        """Bytes that a full memory takes, known once something was offered."""
        return self._slots * self._item_bytes(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on identically, the generator included; rows are the memory's own, not copies.

        Of several processes each has its own ``rows``; all else is the same.
        """
        held = len(self._mine(len(self)))
        filled = {key: _front(value, held) for key, value in self._rows.items()}
        return {"seen": self.seen, "slots": self._slots, "generator": self.generator.get_state(), "rows": filled}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, with the saved capacity; ``rows`` may be a list, of the processes that saved them."""
        self.seen, self._slots, self._rows = state["seen"], state["slots"], {}
        self.generator.set_state(state["generator"])
        saved = state["rows"] if isinstance(state["rows"], list) else [state["rows"]]
        if saved[0]:
            self._make(saved[0])
            slots = torch.tensor(self._mine(len(self)), dtype=torch.long)
            for process, rows in enumerate(saved):
                here = (slots % len(saved) == process).nonzero().squeeze(1)
                for part in here.split(64):  # a few at a time: a large memory has no room beside itself
                    for key, value in rows.items():
                        self._rows[key][part] = value[slots[part] // len(saved)]

    def __len__(self) -> int:
        return min(self.seen, self._slots) if self._rows else 0

    def _mine(self, slots: int) -> range:
        """Those of the first ``slots`` that this process holds: they are dealt in turn, one by one."""
        return range(distributed.rank(), slots, distributed.world_size())

    def _store(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Put rows (N, ...) into ``slots (N,)``, in the processes that hold them."""
        world = distributed.world_size()
        if world > 1:
            came, _ = distributed.send({**rows, "": slots}, slots % world)
            slots = came.pop("")
            rows = came
        for key, value in rows.items():
            self._rows[key][slots // world] = value

    def _place(self, count: int) -> dict[int, int]:
        """Which of ``count`` offered rows go where: slot to row, the last of several for one slot."""
        taken: dict[int, int] = {}
        for row in range(count):
            slot = self.seen
            if slot >= self._slots > 0:  # without room there is nothing to draw
                slot = int(torch.randint(self.seen + 1, (1,), generator=self.generator))
            if slot < self._slots:
                taken[slot] = row
            self.seen += 1
        return taken

    def _stored(self, key: str, value: Tensor) -> Tensor:
        value = value.detach().cpu()
        if key in ("video_at", "audio_at"):
            return value.to(_POSITION)
        return value.to(getattr(torch, self.dtype)) if value.is_floating_point() else value

    def _reserve(self, rows: Mapping[str, Tensor]) -> None:
        each = self._item_bytes(rows)
        if self.budget_bytes is not None:
            self._slots = self.budget_bytes // each
        if (room := _machine_bytes() // max(each, 1)) < len(self._mine(self._slots)):
            raise UserError(
                f"memory.capacity: {self._slots:,} clips of {each:,} bytes are more than this machine's memory; "
                f"must be less than {room:,}"
            )
        self._make(rows)

    def _make(self, like: Mapping[str, Tensor]) -> None:
        mine = len(self._mine(self._slots))
        self._rows = {key: value.new_empty((mine, *value.shape[1:])) for key, value in like.items()}

    def _check(self, rows: Mapping[str, Tensor]) -> None:
        if rows.keys() != self._rows.keys():
            raise ValueError(f"memory.add: got {', '.join(rows)}; the first clips came with {', '.join(self._rows)}")
        for key, value in rows.items():
            if value.shape[1:] != self._rows[key].shape[1:]:
                raise ValueError(
                    f"memory.add: {key} rows of shape {tuple(value.shape[1:])}; "
                    f"the first clips had {tuple(self._rows[key].shape[1:])}"
                )

    @staticmethod
    def _item_bytes(rows: Mapping[str, Tensor]) -> int:
        return sum(math.prod(value.shape[1:]) * value.element_size() for value in rows.values())
