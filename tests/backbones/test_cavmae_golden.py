"""CAV-MAE against the numbers that both official implementations gave for small random models."""

import copy
import functools

import pytest
import torch
from einops import rearrange
from helpers.official import golden, part

from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.convert import fill
from avcl.backbones.convert.names import official_name
from avcl.backbones.pos_embed import audio_table, video_table
from avcl.clip import Clip, Grid

close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-6)


def official(kind, name, **settings):
    """A small backbone with the official weights that were recorded."""
    backbone = CavMae(form=kind, dim=48, decoder_dim=32, decoder_heads=4, **settings).double()
    fill(backbone, part(golden(name)[0], "weights/"), kind, "golden")
    return backbone


@pytest.fixture(scope="module")
def stella():
    sizes = {"frames": 2, "height": 48, "width": 48, "times": 128}
    return official("stella", "stella_steps", **sizes, heads=3, depth=2, fusion_depth=1, decoder_depth=1)


@pytest.fixture(scope="module")
def cavmae():
    sizes = {"frames": 1, "height": 64, "width": 64, "times": 256}
    return official("cav-mae", "cavmae", **sizes, heads=4, decoder_depth=2)


# --- the official STELLA step ----
def step(number):
    """The clips of one official step, cut at the patches it kept, and its mask noise."""
    out = part(golden("stella_steps")[0], f"step{number}/")
    frames, mel = out["video"], out["audio"]
    if number:
        frames = torch.cat([frames, out["buffer_sample/video_data"].double()])
        mel = torch.cat([mel, out["buffer_sample/audio_data"].double()])
    whole = Clip.cut(frames, mel, 16)
    video, audio = (int(out[ids].shape[1] * 0.5) for ids in ("ids_v", "ids_a"))
    return out, whole, whole.take(out["ids_v"][:, :video], out["ids_a"][:, :audio])


def test_stella_unmasked_tokens(stella):
    out, whole, _ = step(0)
    audio, video = stella.encode(whole)
    # the official codes are from before the tables are added again
    close(audio - stella.audio.fusion_table, out["inter_c_a"])
    close(video - stella.video.fusion_table, out["inter_c_v"])
    close(stella.alone(audio, "audio"), out["retrieval_a"])
    close(stella.alone(video, "video"), out["retrieval_v"])
    joint_audio, joint_video = stella.tokens(whole)
    close(joint_audio, out["joint_a"])
    close(joint_video, out["joint_v"])
    pooled_audio, pooled_video = stella.embed(whole)
    close(pooled_audio, out["retrieval_a"].mean(1))
    close(pooled_video, out["retrieval_v"].mean(1))


@pytest.mark.parametrize("number", [0, 1])
def test_stella_masked_pass(stella, number):
    out, _, kept = step(number)
    output = stella(kept, stella.rank(out["rand/0"], out["rand/1"]))
    close(output.terms["mae_audio"].mean(), out["mae_audio_loss"])
    close(output.terms["mae_video"].mean(), out["mae_frame_loss"])
    close(output.terms["contrastive"].mean(), out["contrastive_loss"])
    close(output.audio, out["audio_output"])
    close(output.video, out["video_output"])


def test_stella_gradients(stella):
    out, _, kept = step(0)
    norms = golden("stella_steps")[1]["grad_norms"]
    stella.zero_grad()
    stella(kept, stella.rank(out["rand/0"], out["rand/1"])).loss.mean().backward()
    ours = {f"backbone.transformer.{official_name(key, 'stella')}": p for key, p in stella.named_parameters()}
    assert ours.keys() == {key for key in norms if key.startswith("backbone.")}
    for key, parameter in ours.items():
        assert parameter.grad.norm().item() == pytest.approx(norms[key], abs=1e-6, rel=1e-4), key


# --- the official CAV-MAE ----
@pytest.fixture(scope="module")
def masked(cavmae):
    """The official masked pass: numbers, clip, masks. Official audio patches are counted frequency first."""
    tensors, _ = golden("cavmae")
    clip = Clip.cut(tensors["imgs"][:, None], tensors["audio"][:, None], 16)
    noise = rearrange(tensors["noise/0"], "b (f t) -> b (t f)", f=cavmae.grid.freqs)
    return part(tensors, "out/"), clip, cavmae.rank(noise, tensors["noise/1"])


def to_official(audio, grid):
    return rearrange(audio, "b (t f) ... -> b (f t) ...", f=grid.freqs)


def unshuffled(values, order):
    """Values in the order of the masks, back in the order of the patches."""
    at = order.argsort(1)
    return values.gather(1, at.reshape(*at.shape, *[1] * (values.ndim - 2)).expand_as(values))


def test_cavmae_masks(cavmae, masked):
    out, _, masks = masked
    visible = {"a": masks.audio_visible, "v": masks.video_visible}
    for kind, order in (("a", masks.audio), ("v", masks.video)):
        place = order.argsort(1)
        mask = (place >= visible[kind]).float()
        if kind == "a":
            place, mask = to_official(place, cavmae.grid), to_official(mask, cavmae.grid)
        assert torch.equal(place, out[f"ids_restore_{kind}"])
        assert torch.equal(mask, out[f"mask_{kind}"])


def test_cavmae_masked_pass(cavmae, masked):
    out, clip, masks = masked
    seen, hidden = masks.seen(clip), masks.hidden(clip)
    audio, video = cavmae.encode(seen)
    close(cavmae.alone(audio, "audio"), out["latent_c_a"])
    close(cavmae.alone(video, "video"), out["latent_c_v"])
    close(cavmae.norm(torch.cat(cavmae.fuse(audio, video), dim=1)), out["latent"])

    audio, video = cavmae.decode(*cavmae.tokens(seen), seen, hidden)
    close(unshuffled(cavmae.video.head(video), masks.video), out["pred_v"])
    predicted = to_official(unshuffled(cavmae.audio.head(audio), masks.audio), cavmae.grid)
    close(rearrange(predicted, "b n (t f) -> b n (f t)", f=16), out["pred_a"])

    output = cavmae(clip, masks)
    close(output.terms["mae_audio"].mean(), out["loss_mae_a"])
    close(output.terms["mae_video"].mean(), out["loss_mae_v"])
    close(output.terms["contrastive"].mean(), cavmae.contrastive_weight * out["loss_c_v2a"])
    close(output.loss.mean(), out["loss"])
    both = copy.copy(cavmae)
    both.form = "stella"
    close(both.contrast(*cavmae.embed(seen)).mean(), cavmae.contrastive_weight * out["loss_c_bidirectional"])


def test_cavmae_features(cavmae, masked):
    out, clip, _ = masked
    audio, video = cavmae.encode(clip)
    close(to_official(cavmae.alone(audio, "audio"), cavmae.grid), out["feat_a"])
    close(cavmae.alone(video, "video"), out["feat_v"])


def test_tables_are_those_of_the_official_release():
    """Fixed tables of the official checkpoint, counted our way, are ours."""
    tensors, _ = golden("cavmae")
    grid = Grid(frames=1, rows=4, cols=4, times=16, freqs=8)
    assert torch.equal(video_table(grid._replace(frames=2), 48), video_table(grid, 48).repeat(2, 1))
    for official, dim in (("pos_embed", 48), ("decoder_pos_embed", 32)):
        video, audio = (tensors[f"weights/{official}_{kind}"][0] for kind in "va")
        close(video_table(grid, dim), video)
        close(audio_table(grid, dim), rearrange(audio, "(f t) d -> (t f) d", f=8))
