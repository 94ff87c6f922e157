"""Every draw has a name: generators that do not disturb one another, whatever a method adds to the loop."""

import hashlib

import torch

NAMES = ("mask", "auxiliary", "memory", "method")
"""Of the loop's own masks; of all masks that a strategy draws beside them, so that the loop's never change; of
what is kept and drawn from memory; of a method's decisions. Augmentation needs none: it is a function of seed, epoch
and clip (``scenario.augmentation``)."""


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that is a function of seed and name, equal in all processes."""
    digest = hashlib.sha256(f"{seed}/{name}/0".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
