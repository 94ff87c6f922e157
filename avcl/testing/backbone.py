"""The promises of a backbone, checked on random clips of its grid, with pytest or without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from avcl.backbones.protocol import Backbone
from avcl.clip import Clip, Grid, Masks, Output
from avcl.settings import build
from avcl.testing.promises import (
    Promise,
    finite,
    global_state,
    keep,
    random_state,
    refuses_invalid_settings,
    require,
    same,
)

Make = Callable[[], Backbone]

METHODS = ("forward", "draw_masks", "contrast", "embed", "encode", "fuse")


def check_backbone(make: type[Backbone] | Make, promises: Sequence[Promise] = ()) -> None:
    """BrokenPromise, which says what was found, at the first of ``promises`` that is broken; all by default.

    ``make`` is a backbone class, or a function that makes a new one every time, with the settings to be
    checked: small ones, as a dozen of them are made.
    """
    keep(Backbone, make, promises or PROMISES)


def defines_its_methods(make: Make) -> None:
    """defines dim, patch, grid and every method"""
    part = make()
    missing = [name for name in METHODS if getattr(type(part), name) is getattr(Backbone, name)]
    missing += [name for name in ("dim", "patch", "grid") if not hasattr(part, name)]
    require(not missing, f"missing: {', '.join(missing)}")
    require(isinstance(part.grid, Grid), f"grid is a {type(part.grid).__name__}; must be an avcl.Grid")
    sizes = {"dim": part.dim, "patch": part.patch, **part.grid._asdict()}
    wrong = [f"{name} {size!r}" for name, size in sizes.items() if not isinstance(size, int) or size < 1]
    require(not wrong, f"{', '.join(wrong)}: must be integers greater than 0")


def masks_patches(make: Make) -> None:
    """masks by permutations (B, V) and (B, A) of a clip's patches, some visible and some hidden"""
    part = make()
    for clip in _batches(part):
        masks = part.draw_masks(clip, _generator())
        require(isinstance(masks, Masks), f"draw_masks returned a {type(masks).__name__}; must be avcl.Masks")
        for kind in ("video", "audio"):
            order, patches = getattr(masks, kind), getattr(clip, kind)
            everything = torch.arange(patches.shape[1]).expand(patches.shape[:2])
            require(
                order.shape == everything.shape and torch.equal(order.cpu().long().sort(1).values, everything),
                f"masks.{kind} {tuple(order.shape)} is no permutation of {patches.shape[1]} patches of each clip",
            )
            visible = getattr(masks, f"{kind}_visible")
            require(0 < visible < patches.shape[1], f"{visible} of {patches.shape[1]} {kind} patches are visible")


def gives_loss_terms_per_clip(make: Make) -> None:
    """forward gives loss terms (B,), one for each clip, and embeddings (B, D), all finite"""
    part = make()
    for clip in _batches(part):
        output = _forward(part, clip)
        require(isinstance(output, Output), f"forward returned a {type(output).__name__}; must be an avcl.Output")
        require(output.terms, "forward returned no loss term")
        for name, term in output.terms.items():
            _shaped(f"term {name!r}", term, len(clip))
            one = len(clip) > 2 and bool((term == term[0]).all()) and bool(term[0])
            require(not one, f"term {name!r} is one number for all clips; must be each clip's own")
        for kind in ("audio", "video"):
            _shaped(f"output.{kind}", getattr(output, kind), len(clip), part.dim)
        _shaped("contrast(audio, video)", part.contrast(output.audio, output.video), len(clip))


def has_a_gradient(make: Make) -> None:
    """the loss has a finite gradient that is not zero"""
    part = make()
    loss = _forward(part, _clips(part)).loss.mean()
    require(loss.requires_grad, "the loss does not depend on any weight")
    loss.backward()
    gradients = [p.grad for p in part.parameters() if p.grad is not None]
    require(finite(*gradients), "the gradient is not finite")
    require(any(bool(gradient.any()) for gradient in gradients), "the gradient is zero")


def embeds(make: Make) -> None:
    """embed gives (B, D), encode, fuse and tokens (B, patches, D), audio first"""
    part = make().eval()
    for clip in _batches(part):
        sides = {"audio": clip.audio.shape[1], "video": clip.video.shape[1]}
        encoded = part.encode(clip)
        pairs: dict[str, tuple[Any, tuple[Any, ...]]] = {
            "embed": (part.embed(clip), (part.dim,)),
            "encode": (encoded, ("patches", part.dim)),
            "fuse": (part.fuse(*encoded), ("patches", part.dim)),
            "tokens": (part.tokens(clip), ("patches", part.dim)),
            "embed_patches": (part.embed_patches(clip), ("patches", None)),
        }
        for name, (pair, size) in pairs.items():
            require(isinstance(pair, tuple) and len(pair) == 2, f"{name} must return a pair (audio, video)")
            for (kind, patches), value in zip(sides.items(), pair, strict=True):
                shape = [patches if n == "patches" else n for n in size]
                _shaped(f"{name}: {kind}", value, len(clip), *shape)


def keeps_clips_apart(make: Make) -> None:
    """keeps clips apart: loss terms follow their clips in any order, embed of a clip depends on no other"""
    part = make().eval()
    clip = _clips(part)
    order, masks = torch.arange(len(clip) - 1, -1, -1), part.draw_masks(clip, _generator())
    one, two = part(clip, masks).terms, part(clip[order], masks[order]).terms
    for name, term in one.items():
        require(_close(term[order], two[name]), f"term {name!r} does not follow the order of the clips")
    alone, among = part.embed(clip[:1]), part.embed(clip)
    for kind, one, all_of_them in zip(("audio", "video"), alone, among, strict=True):
        require(_close(one, all_of_them[:1]), f"embed: a clip's {kind} depends on the other clips of its batch")


def embeds_each_modality_alone(make: Make) -> None:
    """embed of one modality does not depend on the other, of which there may be a single patch"""
    part = make().eval()
    clip = _clips(part)
    sides = {"audio": clip.audio.shape[1], "video": clip.video.shape[1]}
    for place, kind in enumerate(sides):
        chosen = {
            other: torch.arange(count if other == kind else 1).expand(len(clip), -1) for other, count in sides.items()
        }
        found = part.embed(clip.take(chosen["video"], chosen["audio"]))[place]
        other = "video" if kind == "audio" else "audio"
        require(_close(part.embed(clip)[place], found), f"embed: a clip's {kind} depends on its {other}")


def sees_visible_patches_alone(make: Make) -> None:
    """its embeddings are those of the visible patches: embed(masks.seen(clip))"""
    part = make()
    for clip in _batches(part):
        masks = part.draw_masks(clip, _generator())
        output = part(clip, masks)
        for kind, found in zip(("audio", "video"), part.embed(masks.seen(clip)), strict=True):
            told = f"output.{kind} is not what embed gives for the visible patches"
            require(_close(getattr(output, kind), found), told)


def is_deterministic(make: Make) -> None:
    """deterministic: masks are a function of the generator, outputs of clips and masks; no side effects on state"""
    part = make()
    clip, before = _clips(part), copy.deepcopy(part.state_dict())
    found = []
    for seed in (1, 2):
        with random_state(seed):
            drawn = global_state()
            masks = part.draw_masks(clip, _generator())
            output = part(clip, masks)
            found.append([vars(masks), vars(output), part.embed(clip)])
            require(same(global_state(), drawn), "draws from a global generator, where it is given one of its own")
    for (one, two), name in zip(zip(*found, strict=True), ("draw_masks", "forward", "embed"), strict=True):
        require(same(_plain(one), _plain(two)), f"{name} gives another result when it is called again")
    other = vars(part.draw_masks(clip, _generator(1)))
    require(not same(_plain(found[0][0]), _plain(other)), "draw_masks does not draw from its generator")
    require(same(dict(part.state_dict()), dict(before)), "a forward pass changed weights or buffers")


def survives_copying(make: Make) -> None:
    """a copy, and one built of its settings and state_dict, give the same embeddings"""
    part = make()
    rebuilt = build(type(part), part.settings())
    rebuilt.load_state_dict(part.state_dict())
    clip = _clips(part)
    for one, told in ((copy.deepcopy(part), "a copy"), (rebuilt, "build(cls, settings()) with its state_dict")):
        require(same(list(one.eval().embed(clip)), list(part.eval().embed(clip))), f"{told} gives other embeddings")


def trains_in_bfloat16(make: Make) -> None:
    """trains in bfloat16, by autocast"""
    part = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _forward(part, _clips(part)).loss.mean()
        embedded = part.embed(_clips(part))
    loss.backward()
    require(finite(loss, *embedded), "the loss or an embedding is not finite")
    require(finite(*(p.grad for p in part.parameters() if p.grad is not None)), "the gradient is not finite")


PROMISES: tuple[Promise, ...] = (
    refuses_invalid_settings,
    defines_its_methods,
    masks_patches,
    gives_loss_terms_per_clip,
    embeds,
    is_deterministic,
    keeps_clips_apart,
    embeds_each_modality_alone,
    sees_visible_patches_alone,
    has_a_gradient,
    survives_copying,
    trains_in_bfloat16,
)
"""What every backbone keeps."""


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _clips(part: Backbone, count: int = 4) -> Clip:
    """Random clips of the backbone's grid, in its precision."""
    draw, sizes = _generator(), part.grid.shape(part.patch).tensors
    drawn = {key: torch.randn(count, *size, generator=draw) for key, size in sizes.items()}
    return Clip.cut(**drawn, patch=part.patch).to(next(part.parameters()).dtype)


def _batches(part: Backbone) -> list[Clip]:
    """One clip, clips of which a strategy has chosen some patches, and whole ones."""
    whole, draw = _clips(part), _generator()
    video, audio = (torch.rand(side.shape[:2], generator=draw).argsort(1) for side in (whole.video, whole.audio))
    chosen = whole.take(video[:, : -(-3 * video.shape[1] // 4)], audio[:, : -(-7 * audio.shape[1] // 8)])
    return [whole[:1], chosen, whole]


def _forward(part: Backbone, clip: Clip) -> Output:
    return part(clip, part.draw_masks(clip, _generator()))


def _shaped(what: str, value: Any, *size: int | None) -> None:
    """BrokenPromise unless ``value`` is a finite floating tensor of this size; None stands for any."""
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    fits = isinstance(found, tuple) and len(found) == len(size)
    fits = fits and all(wanted in (None, side) for wanted, side in zip(size, found, strict=True))
    wanted = ", ".join("any" if side is None else str(side) for side in size)
    require(fits, f"{what} is {found}; must be ({wanted}{',' if len(size) == 1 else ''})")
    require(value.is_floating_point(), f"{what} is {value.dtype}; must be floating point")
    require(finite(value), f"{what} is not finite")


def _close(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.allclose(one, two, rtol=1e-3, atol=1e-5)


def _plain(value: Any) -> Any:
    """A namespace of an object, or a pair, as containers of tensors."""
    return dict(value) if isinstance(value, dict) else list(value)
