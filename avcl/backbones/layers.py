"""Tokens of every layer of a backbone, by name: what a linear probe is put on."""

from __future__ import annotations

from contextlib import ExitStack

from torch import Tensor

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip


def layers(backbone: Backbone, clip: Clip, fused: bool = True) -> dict[str, Tensor]:
    """Tokens (B, L, D) after every block of an unmasked pass, by the block's name, in the order of the pass.

    Of CAV-MAE: ``audio.blocks.0``, ..., ``video.blocks.0``, ..., then ``fusion.0``, ..., whose tokens are those of
    audio followed by those of video. At last ``joint.audio`` and ``joint.video``, what ``Backbone.tokens`` gives;
    without ``fused`` the pass ends before the fusion blocks. A block is a module with a number for its name.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in backbone.named_modules():
            if name.rpartition(".")[2].isdecimal():
                keep = lambda _, given, tokens, name=name: found.__setitem__(name, tokens)  # noqa: E731
                hooks.callback(module.register_forward_hook(keep).remove)
        tokens = backbone.encode(clip)
        if fused:
            found["joint.audio"], found["joint.video"] = backbone.fuse(*tokens)
    return found
