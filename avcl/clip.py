"""Batches of clips as bags of patches that know their positions: whole clips and selected ones alike."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from avcl.errors import HiddenError
from avcl.utils import distributed


class Shape(NamedTuple):
    """The size of one clip before it is cut: frames of height x width pixels, times x mels of log-mel."""

    frames: int
    height: int
    width: int
    times: int
    mels: int

    def grid(self, patch: int) -> Grid:
        """The grid of patches of ``patch`` x ``patch``."""
        return Grid(self.frames, *(n // patch for n in self[1:]))

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The size of one clip's ``frames`` (T, 3, H, W) and of its ``mel`` (1, times, mels)."""
        return {"frames": (self.frames, 3, self.height, self.width), "mel": (1, self.times, self.mels)}


class Grid(NamedTuple):
    """The full grid of patches. Video index = (t * rows + row) * cols + col; audio index = t * freqs + f."""

    frames: int
    rows: int
    cols: int
    times: int
    freqs: int

    def shape(self, patch: int) -> Shape:
        """What clips look like whose patches of ``patch`` x ``patch`` fill the grid."""
        return Shape(self.frames, *(n * patch for n in self[1:]))

    @property
    def video(self) -> int:
        """Number of video patches of a whole clip."""
        return self.frames * self.rows * self.cols

    @property
    def audio(self) -> int:
        """Number of audio patches of a whole clip."""
        return self.times * self.freqs


@dataclass(frozen=True)
class Masks:
    """Which patches of each clip are visible to the encoder, and which are masked and to be reconstructed.

    ``video (B, V)`` and ``audio (B, A)`` are permutations of a clip's patches: the first ``video_visible``
    and ``audio_visible`` are visible, the rest are masked.
    """

    video: Tensor
    audio: Tensor
    video_visible: int
    audio_visible: int

    def __getitem__(self, rows: Any) -> Masks:
        return dataclasses.replace(self, video=self.video[rows], audio=self.audio[rows])

    def to(self, device: torch.device) -> Masks:
        """The same masks on another device."""
        return dataclasses.replace(self, video=self.video.to(device), audio=self.audio.to(device))

    def seen(self, clip: Clip) -> Clip:
        """The visible patches of ``clip``; ``backbone.embed`` of them gives the embeddings of the masked pass."""
        return clip.take(self.video[:, : self.video_visible], self.audio[:, : self.audio_visible])

    def hidden(self, clip: Clip) -> Clip:
        """The masked patches of ``clip``, to be reconstructed."""
        return clip.take(self.video[:, self.video_visible :], self.audio[:, self.audio_visible :])


@dataclass(frozen=True)
class Output:
    """The output of a backbone for a batch of clips: loss terms and embeddings.

    ``terms``: loss terms by name, each (B,), already weighted; the mean of their sum is the batch's loss.
    ``video``, ``audio``: pooled embeddings (B, D), not normalised.
    """

    terms: dict[str, Tensor]
    video: Tensor
    audio: Tensor

    @property
    def loss(self) -> Tensor:
        """Each clip's loss, (B,): the sum of its terms."""
        return torch.stack(list(self.terms.values())).sum(0)


@dataclass(frozen=True, eq=False)
class Clip:
    """A batch of B clips, current or replayed, each with V video patches and A audio patches.

    ``video (B, V, p*p*3)`` pixels in the order (row, column, channel) · ``audio (B, A, p*p)`` in the order
    (time, mel) · ``video_at (B, V)``, ``audio_at (B, A)`` long positions on the full grid · ``index (B,)``
    the clip's number in its scenario · ``label (B,)``, ``task (B,)`` for evaluation only: where they are
    hidden, reading them raises HiddenError · ``parts``: lengths of the batches that were put together to this one,
    each of which is spread over the processes on its own.
    """

    video: Tensor
    audio: Tensor
    video_at: Tensor
    audio_at: Tensor
    index: Tensor
    label: Tensor = field(default_factory=lambda: None, repr=False)  # type: ignore[assignment]
    task: Tensor = field(default_factory=lambda: None, repr=False)  # type: ignore[assignment]
    parts: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", (len(self.video),))
        for name in ("label", "task"):
            if getattr(self, name) is None:
                object.__delattr__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name in ("label", "task"):
            raise HiddenError(
                f"clip.{name} is hidden: the stream is task-free and has no labels; "
                "a strategy that needs them must declare needs_boundaries = True"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], parts: tuple[int, ...] = ()) -> Clip:
        """The clips with these tensors, by field name."""
        return cls(**tensors, parts=parts)

    @classmethod
    def cut(
        cls,
        frames: Tensor,
        mel: Tensor,
        patch: int,
        index: Tensor | None = None,
        label: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Clip:
        """Cut ``frames (B, T, 3, H, W)`` and ``mel (B, 1, time, mels)`` into whole clips of all patches.

        Raises ValueError where a side is not a multiple of ``patch``.
        """
        for name, sides in (("frames", frames.shape[-2:]), ("mel", mel.shape[-2:])):
            if any(side % patch for side in sides):
                raise ValueError(f"{name}: invalid sides {tuple(sides)}: must be multiples of patch = {patch}")
        video = rearrange(frames, "b t c (r p) (k q) -> b (t r k) (p q c)", p=patch, q=patch)
        audio = rearrange(mel, "b 1 (t p) (f q) -> b (t f) (p q)", p=patch, q=patch)
        batch, device = len(video), video.device
        return cls(
            video=video,
            audio=audio,
            video_at=torch.arange(video.shape[1], device=device).expand(batch, -1),
            audio_at=torch.arange(audio.shape[1], device=device).expand(batch, -1),
            index=torch.arange(batch, device=device) if index is None else index,
            label=label,  # type: ignore[arg-type]
            task=task,  # type: ignore[arg-type]
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are not hidden, by field name."""
        held = {f.name: self.__dict__[f.name] for f in dataclasses.fields(self) if f.name in self.__dict__}
        return {key: value for key, value in held.items() if key != "parts"}

    def masked(self) -> Clip:
        """The same clips with label and task hidden."""
        return dataclasses.replace(self, label=None, task=None)  # type: ignore[arg-type]

    def take(self, video_idx: Tensor, audio_idx: Tensor) -> Clip:
        """Select the patches at ``video_idx (B, V')`` and ``audio_idx (B, A')``, indices into this clip's own."""
        return self.replace(
            video=_rows(self.video, video_idx),
            audio=_rows(self.audio, audio_idx),
            video_at=self.video_at.gather(1, video_idx),
            audio_at=self.audio_at.gather(1, audio_idx),
        )

    def sample(self, video: int, audio: int, generator: torch.Generator) -> Clip:
        """A random subset of each clip's patches: ``video`` and ``audio`` of them, in the order of their place."""
        return self.take(self.draw("video", video, generator), self.draw("audio", audio, generator))

    def draw(self, side: str, keep: int, generator: torch.Generator) -> Tensor:
        """``keep`` of the places of each clip's ``video`` or ``audio`` patches, uniformly, ascending: (B, keep)."""
        return self.noise(side, generator).argsort(1)[:, :keep].sort(1).values.to(self.video.device)

    def noise(self, side: str, generator: torch.Generator | None) -> Tensor:
        """A uniform number for each of the ``video`` or ``audio`` patches, (B, L), on the CPU.

        Drawn for the clips of all processes, whose generators stay alike; each gets the numbers of its own.
        """
        return distributed.rand(self.parts, getattr(self, side).shape[1], generator)

    def to(self, *args: Any, **kwargs: Any) -> Clip:
        """Move, or cast the patches, as ``Tensor.to`` does; positions, index, label and task stay 64-bit integers."""
        patches = {key: getattr(self, key).to(*args, **kwargs) for key in ("video", "audio")}
        device = patches["video"].device
        whole = {key: value.to(device).long() for key, value in self.tensors().items() if key not in patches}
        return Clip.of(patches | whole, self.parts)

    def __getitem__(self, rows: slice | Tensor) -> Clip:
        parts = self._parts_of(rows) if isinstance(rows, slice) else ()
        return Clip.of({key: value[rows] for key, value in self.tensors().items()}, parts)

    def _parts_of(self, rows: slice) -> tuple[int, ...]:
        """The parts that ``rows`` are; none where they begin or end within one."""
        ends = [0, *itertools.accumulate(self.parts)]
        start, stop, _ = rows.indices(len(self))
        # a part may be empty in this process: then what begins where it does begins with it, at its own number
        begin = 0 if rows.start is None else _find(ends, start, 1)
        end = len(self.parts) if rows.stop is None else _find(ends, stop, begin + 1)
        return self.parts[begin:end] if ends[begin] == start else ()

    def __add__(self, other: Clip) -> Clip:
        """Concatenate two batches. What is hidden in either is hidden in the sum."""
        mine, theirs = self.tensors(), other.tensors()
        for side in ("video", "audio"):
            if mine[side].shape[1:] != theirs[side].shape[1:]:
                raise ValueError(
                    f"clips with {mine[side].shape[1]} and {theirs[side].shape[1]} {side} patches "
                    "cannot form one batch: take() as many from both"
                )
        both = {key: torch.cat([mine[key], theirs[key]]) for key in mine if key in theirs}
        return Clip.of(both, self.parts + other.parts)

    def __len__(self) -> int:
        return len(self.video)

    def replace(self, **changes: Tensor) -> Clip:
        """The same clips with some of their tensors changed."""
        return Clip.of({**self.tensors(), **changes}, self.parts)


def _find(numbers: list[int], number: int, first: int) -> int:
    """Where ``number`` is, from place ``first`` on; 0 where it is not."""
    return next((place for place in range(first, len(numbers)) if numbers[place] == number), 0)


def _rows(patches: Tensor, index: Tensor) -> Tensor:
    """The rows ``index (B, K)`` of ``patches (B, L, P)``, each copied whole, where gather would look at each number.

    It is the gathering of positions that refuses an index of another clip.
    """
    first = patches.shape[1] * torch.arange(len(patches), device=index.device)
    chosen = patches.flatten(0, 1).index_select(0, (index + first[:, None]).flatten())
    return chosen.unflatten(0, index.shape)
