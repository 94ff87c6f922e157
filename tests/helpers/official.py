"""Official checkpoints: state dicts of their names and shapes, and the numbers recorded from the authors' code."""

import functools
import json
from pathlib import Path

import torch
from safetensors import safe_open

BASE = {"dim": 768, "decoder_dim": 512, "decoder_depth": 8, "pixels": 224, "times": 1024, "mels": 128}
SMALL = {"dim": 48, "decoder_dim": 32, "decoder_depth": 2, "pixels": 32, "times": 64, "mels": 32}


@functools.cache
def golden(name):
    """The tensors and the metadata recorded for a small random model: ``stella_steps`` or ``cavmae``."""
    with safe_open(Path(__file__).parents[1] / "golden" / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, {key: json.loads(value) for key, value in file.metadata().items()}


def part(tensors, prefix):
    """The tensors whose names begin so, without the prefix."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def block(name, dim, norms=("",)):
    yield from (
        (f"{name}.norm{n}{kind}.{part}", (dim,)) for n in (1, 2) for kind in norms for part in ("weight", "bias")
    )
    for layer, wide, narrow in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.fc1", 4, 1), ("mlp.fc2", 1, 4)):
        yield f"{name}.{layer}.weight", (wide * dim, narrow * dim)
        yield f"{name}.{layer}.bias", (wide * dim,)


def layer(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def decoder(dim, decoder_dim, decoder_depth, norms=("",)):
    blocks = (block(f"decoder_blocks.{n}", decoder_dim, norms) for n in range(decoder_depth))
    every = dict(pair for pairs in blocks for pair in pairs)
    return layer("decoder_embed", decoder_dim, dim) | every | layer("decoder_norm", decoder_dim)


def drawn(shapes, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    if device == "meta":
        return {name: torch.empty(shape, device=device) for name, shape in shapes.items()}
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def mae(depth=12, whole=True, device="cpu", **sizes):
    """``mae_pretrain_vit_base_full.pth`` under ``model``; without its decoder as timm has it."""
    dim, decoder_dim, decoder_depth, pixels = (sizes[key] for key in ("dim", "decoder_dim", "decoder_depth", "pixels"))
    patches = (pixels // 16) ** 2
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, patches + 1, dim)} | layer("patch_embed.proj", dim, 3, 16, 16)
    shapes |= dict(pair for n in range(depth) for pair in block(f"blocks.{n}", dim)) | layer("norm", dim)
    if whole:
        shapes |= {"mask_token": (1, 1, decoder_dim), "decoder_pos_embed": (1, patches + 1, decoder_dim)}
        shapes |= decoder(dim, decoder_dim, decoder_depth) | layer("decoder_pred", 16 * 16 * 3, decoder_dim)
    return drawn(shapes, device)


def both(depth, fusion, frames, norms, dim, pixels, times, mels, **_):
    """What CAV-MAE and STELLA name alike."""
    counts = {"a": times // 16 * (mels // 16), "v": frames * (pixels // 16) ** 2}
    shapes = {f"modality_{a}": (1, 1, dim) for a in "av"} | {f"pos_embed_{a}": (1, n, dim) for a, n in counts.items()}
    shapes |= layer("patch_embed_a.proj", dim, 1, 16, 16) | layer("patch_embed_v.proj", dim, 3, 16, 16)
    shapes |= dict(pair for a in "av" for n in range(depth) for pair in block(f"blocks_{a}.{n}", dim, norms))
    shapes |= dict(pair for n in range(fusion) for pair in block(f"blocks_u.{n}", dim, ("", "_a", "_v")))
    return shapes | layer("norm_a", dim) | layer("norm_v", dim) | layer("norm", dim), counts


def cavmae(depth=11, fusion=1, whole=True, head=None, device="cpu", **sizes):
    """``audio_model.pth`` behind DataParallel; without a decoder, and with a head of ``head`` classes, fine-tuned."""
    norms, dim, wide = ("", "_a", "_v"), sizes["dim"], sizes["decoder_dim"]
    shapes, counts = both(depth, fusion, 1, norms, **sizes)
    if whole:
        shapes |= {"mask_token": (1, 1, wide)} | {f"decoder_modality_{a}": (1, 1, wide) for a in "av"}
        shapes |= {f"decoder_pos_embed_{a}": (1, n, wide) for a, n in counts.items()}
        shapes |= decoder(dim, wide, sizes["decoder_depth"], norms)
        shapes |= layer("decoder_pred_a", 16 * 16, wide) | layer("decoder_pred_v", 16 * 16 * 3, wide)
    if head:
        shapes |= layer("mlp_head.0", dim) | layer("mlp_head.1", head, dim)
    return {f"module.{name}": value for name, value in drawn(shapes, device).items()}


def stella(depth=10, fusion=2, frames=4, matching=True, device="cpu", **sizes):
    """``model_checkpoint_####.pth``: behind DistributedDataParallel, with the matching module."""
    dim, wide = sizes["dim"], sizes["decoder_dim"]
    shapes, counts = both(depth, fusion, frames, ("",), **sizes)
    for a, n in counts.items():
        shapes |= {f"inter_pos_embed_{a}": (1, n, dim), f"decoder_pos_embed_{a}": (1, n, wide)}
        shapes |= {f"mask_token_{a}": (1, 1, wide), f"decoder_modality_{a}": (1, 1, wide)}
    shapes |= decoder(dim, wide, sizes["decoder_depth"])
    shapes |= layer("mae_score_audio.decoder", 16 * 16, wide) | layer("mae_score_video.decoder", 16 * 16 * 3, wide)
    state = {f"module.backbone.transformer.{name}": value for name, value in drawn(shapes, device).items()}
    if matching:
        shapes = (
            layer("norm_v", dim)
            | layer("norm_a", dim)
            | {f"to_{a}_{x}.weight": (dim, dim) for a in "va" for x in "qkv"}
        )
        shapes |= layer("matching_score.pooler.dense", 2 * dim, 2 * dim) | layer("matching_score.fc", 1, 2 * dim)
        state |= {f"module.avmatching_module.{name}": value for name, value in drawn(shapes, device).items()}
    return state
