"""Random numbers by counting (Philox4x32-10, Salmon et al. 2011): a draw depends on what it is for, not on when.

A stateful generator gives clip 7 other numbers when it moves in the batch, when the batch grows, or on another
device. Here every number is a pure function of (seed, use, clip index, column).
"""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Use(IntEnum):
    """What a draw is for: draws for different uses are independent."""

    PRUNE_VIDEO = 0
    PRUNE_AUDIO = 1
    VIDEO = 2
    AUDIO = 3
    CUT = 4


def words(seed: int, use: int, index: Tensor, columns: int) -> Tensor:
    """Uniform 32-bit words (B, columns), in int64, on the device of the clips' numbers ``index (B,)``.

    A clip that is twice in the batch gets the same words twice.
    """
    row = index.long()[:, None]
    column = torch.arange(columns, device=index.device)[None]
    counter = (
        column,
        row & WORD,
        (row >> 32) & WORD,
        torch.full_like(column[:, :1], use),
    )  # these grow to (B, columns)
    return philox(counter, (seed & WORD, (seed >> 32) & WORD))[0]


def exponential(words: Tensor) -> Tensor:
    """Exp(1) numbers in float64: -log((words + 1/2) / 2^32), the same to the last bit on every machine.

    A library's logarithm is not, so this one is made of + * / only: exponent, and the series of artanh.
    """
    mantissa, exponent = torch.frexp((2 * words + 1).double())
    small = mantissa < 0.7071067811865476
    mantissa = torch.where(small, 2 * mantissa, mantissa)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    series = torch.full_like(ratio, 1 / 21)
    for odd in range(19, 0, -2):
        series = series * square + 1 / odd
    return (33 - (exponent.double() - small.double())) * 0.6931471805599453 - 2 * ratio * series


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words for each counter of four words; words are int64 in [0, 2^32)."""
    a, b, c, d = counter
    for turn in range(_ROUNDS):
        left, right = ((k + turn * step) & WORD for k, step in zip(key, _KEY_STEPS, strict=True))
        # int64 products wrap around, which leaves the low 64 bits right; the mask undoes the sign of the shift
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            ((second >> 32) & WORD) ^ b ^ left,
            second & WORD,
            ((first >> 32) & WORD) ^ d ^ right,
            first & WORD,
        )
    return a, b, c, d
