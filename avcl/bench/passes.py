"""Passes of a training step through the backbone and its teachers, counted whatever backbone it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from avcl.backbones.protocol import Backbone
from avcl.training.learner import Learner

KINDS = ("forward", "embed", "encode", "encode_first", "fuse")


@contextmanager
def counted(learner: Learner) -> Iterator[dict[str, list[int]]]:
    """While entered, all passes by kind, each as the number of its clips.

    ``forward``: encoders, fusion, decoder · ``embed``, ``encode``: encoders, with the fusion blocks and without ·
    ``encode_first``: some of their blocks · ``fuse``: fusion blocks alone · ``backward``: 0, as nobody knows the clips.
    """
    teachers = [part for module in learner.modules() for part in module.modules() if isinstance(part, Backbone)]
    found: dict[str, list[int]] = {kind: [] for kind in (*KINDS, "backward")}
    inside = False

    def counting(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:  # a part of a pass that is counted as a whole
                return call(*args, **kwargs)
            inside = True
            found[kind].append(len(args[0]))
            try:
                return call(*args, **kwargs)
            finally:
                inside = False

        return method

    def backward(call: Callable[..., Any]) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            found["backward"].append(0)
            return call(*args, **kwargs)

        return function

    with ExitStack() as stack:
        for backbone in (learner.backbone, *teachers):
            for kind in KINDS:
                setattr(backbone, kind, counting(kind, getattr(backbone, kind)))
                stack.callback(delattr, backbone, kind)
        for name in ("backward", "grad"):
            stack.enter_context(patch.object(torch.autograd, name, backward(getattr(torch.autograd, name))))
        yield found
