"""What holds for CAV-MAE with any weights, beside the promises of every backbone: sizes, settings, tables, masks."""

import functools
import re

import pytest
import torch
from torch.func import functional_call

from avcl.backbones.cavmae import CavMae, backbones
from avcl.clip import Clip
from avcl.errors import SettingsError, UserError

close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-6)


def tiny(**settings):
    torch.manual_seed(0)
    shape = {"frames": 2, "height": 48, "width": 32, "times": 96, "mels": 64}
    return CavMae(**{"size": "tiny", **shape, **settings})


def random_clip(backbone, batch=3):
    generator = torch.Generator().manual_seed(0)
    grid, patch = backbone.grid, backbone.patch
    frames = torch.randn(batch, grid.frames, 3, grid.rows * patch, grid.cols * patch, generator=generator)
    mel = torch.randn(batch, 1, grid.times * patch, grid.freqs * patch, generator=generator)
    return Clip.cut(frames, mel, patch)


def ready(dtype=torch.float32, **settings):
    """A backbone, clips that it fits, and masks for them."""
    backbone = tiny(**settings).to(dtype)
    clip = random_clip(backbone).to(dtype)
    return backbone, clip, backbone.draw_masks(clip)


def permutations(count):
    return torch.rand(3, count, generator=torch.Generator().manual_seed(0)).argsort(1)


# --- sizes and settings ----
def count(backbone, trained=False):
    return sum(p.numel() for p in backbone.parameters() if p.requires_grad or not trained)


def test_published_parameter_counts():
    with torch.device("meta"):
        base, official = count(CavMae()), CavMae(form="cav-mae", frames=1)
        assert base == 185_534_976
        assert 0.23 < count(CavMae(size="small")) / base < 0.26
        assert count(CavMae(size="tiny", frames=2, height=64, width=64, times=256)) < 1e6
    # two of three norm pairs in each own and decoder block of the official CAV-MAE are never used
    unused = 22 * 4 * 2 * 768 + 8 * 4 * 2 * 512
    assert count(official) + unused == 191_036_160
    assert count(official, trained=True) + unused == 190_129_920


def test_settings_come_from_form_and_size_and_rebuild_the_same():
    with torch.device("meta"):
        base, published = CavMae(), CavMae(form="cav-mae", frames=1)
        assert (base.mask_ratio, base.contrastive_weight, base.dim) == (0.8, 0.1, 768)
        assert (published.mask_ratio, published.contrastive_weight, published.depth) == (0.75, 0.01, 11)
        assert CavMae(mask_ratio=0.5).mask_ratio == 0.5
        assert CavMae(**published.settings()).settings() == published.settings()
    assert tiny().contrastive_weight == 1.0
    assert backbones() == [CavMae]


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"height": 50}, ["height: invalid value 50: must be a multiple of patch = 16"]),
        ({"heads": 5}, ["heads: invalid value 5: must divide dim = 96"]),
        ({"decoder_heads": 3}, ["decoder_heads: invalid value 3: must divide decoder_dim = 64"]),
        ({"dim": 98, "heads": 2}, ["dim: invalid value 98: must be a multiple of 4, as sine-cosine tables need"]),
        (
            {"form": "cav-mae", "times": 100},
            [
                "times: invalid value 100: must be a multiple of patch = 16",
                "frames: invalid value 2: must be 1 for the form 'cav-mae'; 'stella' takes any number",
            ],
        ),
        ({"mask_ratio": 0.95}, ["mask_ratio: invalid value 0.95: must leave one of 12 video patches visible"]),
        ({"mask_ratio": 0.0}, ["mask_ratio: invalid value 0.0: must be greater than 0"]),
        ({"size": "huge"}, ["size: invalid value 'huge': must be 'tiny', 'small' or 'base'"]),
        ({"times": 8}, ["times: invalid value 8: must be a multiple of patch = 16"]),
    ],
)
def test_mistakes_are_named(settings, lines):
    with pytest.raises(SettingsError) as error:
        tiny(**settings)
    assert error.value.mistakes == lines


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"frames": 4}, "24 video patches of 768 values do not fit the backbone (at most 12 of 768)"),
        ({"patch": 8, "times": 384}, "384 audio patches of 64 values do not fit the backbone (at most 24 of 256)"),
    ],
)
def test_a_clip_of_another_size_is_one_line(settings, text):
    with pytest.raises(UserError, match=f"^clip: {re.escape(text)}"):
        tiny().embed(random_clip(tiny(**settings)))


# --- tables ----


def test_order_of_patches_does_not_matter():
    """Shuffled patches give shuffled tokens: every table, the second one too, follows the positions."""
    backbone = tiny().double()
    torch.nn.init.normal_(backbone.video.fusion_table)
    clip = random_clip(backbone).to(torch.float64)
    video_idx, audio_idx = permutations(12), permutations(24)
    audio, video = backbone.tokens(clip)
    shuffled_audio, shuffled_video = backbone.tokens(clip.take(video_idx, audio_idx))
    close(shuffled_video, video.gather(1, video_idx[..., None].expand_as(video)))
    close(shuffled_audio, audio.gather(1, audio_idx[..., None].expand_as(audio)))


# --- masks ----
@pytest.mark.parametrize("keep", [(12, 24), (8, 15)])
def test_seen_and_hidden_are_disjoint_and_complete(keep):
    backbone = tiny()
    kept = random_clip(backbone).take(permutations(12)[:, : keep[0]], permutations(24)[:, : keep[1]])
    masks = backbone.draw_masks(kept)
    seen, hidden = masks.seen(kept), masks.hidden(kept)
    for name in ("video_at", "audio_at"):
        together = torch.cat([getattr(seen, name), getattr(hidden, name)], dim=1)
        assert torch.equal(together.sort(1).values, getattr(kept, name).sort(1).values)
    assert (seen.video_at.shape[1], seen.audio_at.shape[1]) == (int(12 * 0.4), int(24 * 0.4))


def test_published_numbers_of_visible_patches():
    with torch.device("meta"):
        grid, kept = CavMae(), CavMae(visible_of="kept")
    for audio, video in ((512, 784), (256, 392)):
        masks = grid.rank(torch.rand(1, audio), torch.rand(1, video))
        assert (masks.audio_visible, masks.video_visible) == (102, 156)
    masks = kept.rank(torch.rand(1, 256), torch.rand(1, 392))
    assert (masks.audio_visible, masks.video_visible) == (51, 78)


def test_masks_are_audio_noise_then_video_noise():
    backbone = tiny()
    masks = backbone.draw_masks(random_clip(backbone), torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    audio, video = torch.rand(3, 24, generator=generator), torch.rand(3, 12, generator=generator)
    assert torch.equal(masks.audio, audio.argsort(1))
    assert torch.equal(masks.video, video.argsort(1))
    assert torch.equal(masks[1:].video, masks.video[1:])


@pytest.mark.parametrize(
    ("visible_of", "keep", "text"),
    [
        ("grid", 4, "4 of 12 video patches are visible, but a clip keeps only 4: must keep more than 1 - mask_ratio ="),
        ("kept", 2, "masks all 2 video patches that a clip keeps: must leave one visible"),
    ],
)
def test_nothing_masked_or_nothing_visible_is_one_line(visible_of, keep, text):
    backbone = tiny(visible_of=visible_of)
    kept = random_clip(backbone).take(permutations(12)[:, :keep], permutations(24))
    with pytest.raises(UserError, match=f"^{re.escape(f'mask_ratio: invalid value 0.6: {text}')}"):
        backbone(kept)


# --- the promises of a backbone ----
@pytest.mark.parametrize("form", ["stella", "cav-mae"])
def test_terms_of_each_clip(form):
    """Reconstruction of a clip does not depend on the rest of the batch; every term has its weight."""
    backbone, clip, masks = ready(torch.float64, form=form, frames=1)
    terms, alone = backbone(clip, masks).terms, backbone(clip[1:2], masks[1:2]).terms
    assert list(terms) == ["mae_audio", "mae_video", "contrastive"]
    backbone.mae_weight, backbone.contrastive_weight = 2.0, 0.5
    weighted = backbone(clip, masks).terms
    for term, factor in (("mae_audio", 2.0), ("mae_video", 2.0), ("contrastive", 0.5)):
        close(weighted[term], factor * terms[term])
        if term != "contrastive":
            close(alone[term], terms[term][1:2])


@pytest.mark.parametrize("form", ["stella", "cav-mae"])
def test_functional_call_and_gradient_of_the_clip(form):
    """Virtual steps work, and gradients reach seen patches, and hidden ones through the targets."""
    backbone, clip, masks = ready(form=form, frames=1)
    clip.video.requires_grad_()
    clip.audio.requires_grad_()
    parameters = {key: p.detach().clone().requires_grad_() for key, p in backbone.named_parameters()}
    loss = functional_call(backbone, parameters, (clip, masks)).loss.mean()
    assert torch.equal(loss, backbone(clip, masks).loss.mean())
    loss.backward()
    assert (clip.video.grad.abs().sum(2) > 0).all()
    assert (clip.audio.grad.abs().sum(2) > 0).all()
    assert all(p.grad is not None for p in parameters.values())
    assert all(p.grad is None for p in backbone.parameters())
    moved = {key: p.detach() - 0.1 * p.grad for key, p in parameters.items()}
    assert functional_call(backbone, moved, (clip, masks)).loss.mean() < loss


def test_gradient_of_the_clip_is_right():
    """Against finite differences in a random direction, targets included."""
    backbone, clip, masks = ready(torch.float64)

    def loss(video, audio):
        return backbone(Clip(**clip.tensors() | {"video": video, "audio": audio}), masks).loss.sum()

    patches = (clip.video.requires_grad_(), clip.audio.requires_grad_())
    assert torch.autograd.gradcheck(loss, patches, atol=1e-6, rtol=1e-5, fast_mode=True)


def test_fixed_and_learned_tables():
    stella, published = tiny(), tiny(form="cav-mae", frames=1)
    names = ["table", "fusion_table", "decoder_table"]
    assert set(stella.no_decay()) == {f"{kind}.{name}" for kind in ("audio", "video") for name in names}
    assert all(p.requires_grad for p in stella.parameters())
    frozen = {key for key, p in published.named_parameters() if not p.requires_grad}
    assert frozen == {f"{kind}.{name}" for kind in ("audio", "video") for name in ("table", "decoder_table")}


def test_autocast_keeps_losses_in_single_precision():
    backbone, clip, masks = ready()
    exact = backbone(clip, masks)
    with torch.autocast("cpu", torch.bfloat16):
        output = backbone(clip, masks)
    for name, term in output.terms.items():
        assert term.dtype == torch.float32, name
        torch.testing.assert_close(term, exact.terms[name], rtol=0.1, atol=0.05)


@pytest.mark.parametrize("form", [{}, {"form": "cav-mae", "frames": 1}], ids=["stella", "cav-mae"])
def test_a_reconstruction_is_what_the_loss_compares_and_leaves_what_is_seen(form):
    """Of a clip that keeps a part of its patches: in their order, off by as much as the loss says."""
    backbone, whole, _ = ready(torch.float64, **form)
    clip = whole.sample(whole.video.shape[1] - 1, whole.audio.shape[1] - 2, torch.Generator().manual_seed(0))
    masks = backbone.draw_masks(clip, torch.Generator().manual_seed(0))
    before, terms = torch.get_rng_state(), backbone(clip, masks).terms
    found = backbone.reconstruct(clip, masks)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found.video_at, clip.video_at) and torch.equal(found.audio_at, clip.audio_at)
    seen, same = masks.seen(clip), masks.seen(found)
    hidden, made = masks.hidden(clip), masks.hidden(found)
    for kind in ("audio", "video"):
        assert torch.equal(getattr(seen, kind), getattr(same, kind))
        target, guess = getattr(hidden, kind), getattr(made, kind)
        error = ((guess - target) ** 2 / (target.var(-1, keepdim=True) + 1e-6)).mean((1, 2))
        close(error, terms[f"mae_{kind}"].detach())


def test_tiny_learns_a_few_clips():
    """Twenty steps on one batch bring the contrastive term far below chance."""
    backbone = tiny()
    clip = random_clip(backbone, batch=8)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        output = backbone(clip, backbone.draw_masks(clip, generator))
        optimizer.zero_grad()
        output.loss.mean().backward()
        optimizer.step()
    audio, video = backbone.embed(clip)
    assert backbone.contrast(audio, video).mean() < 0.25 * torch.tensor(8.0).log()


# --- features for dense tasks ----
def test_fusion_features_are_the_inputs_of_the_last_layer_of_every_fusion_mlp():
    backbone, clip, _ = ready(fusion_depth=2)
    inputs = []
    for block in backbone.fusion:
        block.mlp.fc2.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    encoded = backbone.encode(clip)
    backbone.fuse(*encoded)
    expected, features = inputs[:2], backbone.fusion_features(*encoded)
    assert [audio.shape[1:] for audio, _ in features] == [(backbone.grid.audio, 4 * backbone.dim)] * 2
    for whole, parts in zip(expected, features, strict=True):
        close(torch.cat(parts, 1), whole)
