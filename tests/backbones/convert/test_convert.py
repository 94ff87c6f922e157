"""Converted weights mean here what they meant there, and every tensor of a checkpoint is accounted for."""

import functools
import math
import re

import numpy as np
import pytest
import timm
import torch
from helpers import official
from safetensors.torch import save_file

from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.convert import convert_checkpoint, fill
from avcl.backbones.weights import load_weights
from avcl.clip import Clip
from avcl.errors import UserError
from avcl.memory import Memory
from avcl.plugins.stella import Stella
from avcl.training.learner import Learner

CLIPS = {"height": 32, "width": 32, "times": 64, "mels": 32}
HEADS = {"heads": 3, "decoder_heads": 4}
exactly = functools.partial(torch.testing.assert_close, rtol=0, atol=0)
close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def whole_mae(tmp_path_factory):
    """An MAE with its decoder, as its authors publish it, but narrow and four blocks deep."""
    path = tmp_path_factory.mktemp("mae") / "mae_full.pth"
    return saved(path, {"model": official.mae(depth=4, **official.SMALL)})


def narrow(source, zero_init=False, **settings):
    return convert_checkpoint(source, settings={**CLIPS, **HEADS, "frames": 2, **settings}, zero_init=zero_init)


# ---- MAE ----
@pytest.fixture(scope="module")
def picture_model():
    """timm's ViT, narrow, with every weight away from its beginning, and the epsilon that our norms have."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vit_base_patch16_224.mae", pretrained=False, **sizes).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize(("epsilon", "off"), [(1e-5, 1e-5), (1e-6, 1e-2)])
def test_video_goes_through_an_mae_as_through_timms_own(tmp_path, picture_model, epsilon, off):
    """With our epsilon to rounding; MAE's own, ten times smaller, moves tokens by less than a hundredth."""
    backbone = narrow(saved(tmp_path / "timm.pth", picture_model.state_dict()), zero_init=True).backbone
    for module in picture_model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = epsilon
    frames = torch.randn(3, 2, 3, 32, 32)
    _, video = backbone.encode(Clip.cut(frames, torch.zeros(3, 1, 64, 32), 16))
    for frame in range(2):
        alone = Clip.cut(frames[:, frame, None], torch.zeros(3, 1, 64, 32), 16)
        _, one = backbone.encode(alone)
        tokens = picture_model.patch_embed(frames[:, frame]) + picture_model.pos_embed[:, 1:]
        for block in picture_model.blocks[:2]:
            tokens = block(tokens)
        table = backbone.video.fusion_table[:4]
        assert (one - table - tokens).norm() <= off * tokens.norm()
        for block in picture_model.blocks[2:]:
            tokens = block(tokens)
        expected = picture_model.norm(tokens)
        assert (backbone.alone(one - table, "video") - expected).norm() <= off * expected.norm()
    exactly(backbone.video.table[:4], backbone.video.table[4:])
    assert video.shape == (3, 8, 48)


def test_sound_of_one_channel_is_a_grey_picture(whole_mae):
    """Hand-computed: a convolution over three equal channels is the sum of its kernels over one of them."""
    backbone = narrow(whole_mae).backbone
    conv = torch.load(whole_mae, weights_only=True)["model"]["patch_embed.proj.weight"]
    mel = torch.zeros(1, 1, 64, 32)
    mel[0, 0, 16 + 2, 5] = 1.0  # the third row of the second patch in time, the sixth bin of the first in frequency
    at = Clip.cut(torch.zeros(1, 2, 3, 32, 32), mel, 16)
    tokens = backbone.audio.embed(at.audio)[0] - backbone.audio.embed.bias
    close(tokens[2], conv[:, 0, 2, 5] + conv[:, 1, 2, 5] + conv[:, 2, 2, 5])
    assert tokens.abs().sum(1).count_nonzero() == 1


def test_every_part_of_an_mae_goes_where_the_authors_put_it(whole_mae):
    found = narrow(whole_mae)
    mae, ours = torch.load(whole_mae, weights_only=True)["model"], found.backbone.state_dict()
    for kind in ("audio", "video"):
        exactly(ours[f"{kind}.blocks.1.attn.qkv.weight"], mae["blocks.1.attn.qkv.weight"])
        exactly(ours[f"{kind}.blocks.0.norm2.joint.bias"], mae["blocks.0.norm2.bias"])
        exactly(ours[f"fusion.1.norm1.{kind}.weight"], mae["blocks.3.norm1.weight"])
        exactly(ours[f"{kind}.norm.weight"], mae["norm.weight"])
        exactly(ours[f"mask_tokens.{kind}"], mae["mask_token"][0, 0])
    exactly(ours["fusion.0.mlp.fc1.weight"], mae["blocks.2.mlp.fc1.weight"])
    exactly(ours["fusion.1.norm1.joint.weight"], mae["blocks.3.norm1.weight"])
    exactly(ours["norm.bias"], mae["norm.bias"])
    exactly(ours["video.table"], mae["pos_embed"][0, 1:].repeat(2, 1))
    exactly(ours["video.fusion_table"], ours["video.table"])
    exactly(ours["video.decoder_table"], mae["decoder_pos_embed"][0, 1:].repeat(2, 1))
    exactly(ours["decoder_blocks.1.mlp.fc2.bias"], mae["decoder_blocks.1.mlp.fc2.bias"])
    exactly(ours["video.head.weight"], mae["decoder_pred.weight"])
    exactly(ours["audio.head.weight"], mae["decoder_pred.weight"][:256])
    exactly(ours["audio.head.bias"], mae["decoder_pred.bias"][:256])
    assert found.skipped == {"cls_token": "the backbone has no class token"}
    assert set(found.initialized) == {
        *(f"audio.{table}" for table in ("table", "fusion_table", "decoder_table")),
        *(f"{kind}.{token}" for kind in ("audio", "video") for token in ("modality", "decoder_modality")),
    }
    assert len(found.copied) + len(found.initialized) == len(ours)


def test_what_an_mae_has_not_begins_as_in_any_backbone_or_at_zero(whole_mae):
    found = narrow(whole_mae)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        again = narrow(whole_mae)
    zeros = narrow(whole_mae, zero_init=True)
    new = CavMae(**found.backbone.settings())
    for key in ("audio.table", "audio.fusion_table", "audio.decoder_table"):
        exactly(found.backbone.state_dict()[key], new.state_dict()[key])
    for key in found.initialized:
        exactly(found.backbone.state_dict()[key], again.backbone.state_dict()[key])
        assert found.backbone.state_dict()[key].any()
        assert not zeros.backbone.state_dict()[key].any()
    for key in found.copied:
        exactly(found.backbone.state_dict()[key], zeros.backbone.state_dict()[key])


def test_an_encoder_alone_gets_a_new_decoder_and_says_so(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_file(official.mae(depth=4, whole=False, **official.SMALL), path)
    found, zeros = (narrow(path, zero_init=zero_init, decoder_heads=16) for zero_init in (False, True))
    assert (found.backbone.decoder_dim, found.backbone.decoder_depth) == (512, 8)
    assert not zeros.backbone.audio.decoder_table.any()
    assert zeros.backbone.decoder_embed.weight.all()
    new = [*found.rows()][-1][2]
    assert new.startswith("newly initialized: audio.modality, ")
    for part in ("decoder_embed", "decoder_blocks.0-7", "decoder_norm", "mask_tokens.audio", "video.head"):
        assert part in new.removeprefix("newly initialized: ").split(", ")


def test_an_mae_in_the_form_of_cav_mae(whole_mae):
    """CAV-MAE's authors: one fusion block, one mask token, and spectrograms that lie on their side."""
    found = narrow(whole_mae, form="cav-mae", frames=1)
    mae, ours = torch.load(whole_mae, weights_only=True)["model"], found.backbone.state_dict()
    assert (found.backbone.depth, found.backbone.fusion_depth, found.backbone.frames) == (3, 1, 1)
    exactly(ours["fusion.0.norm1.audio.weight"], mae["blocks.3.norm1.weight"])
    exactly(ours["mask_tokens.joint"], mae["mask_token"][0, 0])
    exactly(ours["audio.embed.weight"][:, 2 * 16 + 5], mae["patch_embed.proj.weight"].sum(1)[:, 5, 2])


# ---- CAV-MAE and STELLA ----
@pytest.mark.parametrize("head", [None, 309])
def test_cav_mae_pretrained_and_fine_tuned(tmp_path, head):
    state = official.cavmae(depth=2, whole=head is None, head=head, **official.SMALL)
    state |= {f"module.cls_token_{kind}": torch.zeros(1, 1, 48) for kind in ("a", "v", "av")}
    found = convert_checkpoint(saved(tmp_path / "audio_model.pth", state), settings={"times": 64, "mels": 32, **HEADS})
    backbone = found.backbone
    assert (found.kind, backbone.form, backbone.depth, backbone.fusion_depth) == ("cav-mae", "cav-mae", 2, 1)
    assert (backbone.height, backbone.frames, backbone.dim) == (32, 1, 48)
    exactly(backbone.fusion[0].norm1["video"].weight.detach(), state["module.blocks_u.0.norm1_v.weight"])
    reasons = {name: why for name, why in found.skipped.items() if "cls_token" in name or "head" in name}
    assert found.skipped["blocks_a.0.norm1_a.weight"] == "unused by the model"
    if head:
        assert reasons["mlp_head.1.weight"] == "classification head"
        assert len(found.skipped) == 3 + 4 + 8 * 4
        assert {"decoder_embed.weight", "mask_tokens.joint", "audio.head.bias"} <= {*found.initialized}
        assert not any("decoder" in ours or "head" in ours for ours in found.copied)
    else:
        assert found.initialized == ()
    assert len(found.copied) + len(found.initialized) == len(backbone.state_dict())


def test_a_whole_checkpoint_of_stella_keeps_the_matching_module_and_nothing_of_the_training(tmp_path):
    state = official.stella(depth=2, fusion=1, frames=2, **official.SMALL)
    model = torch.nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    content = {
        "model": state,
        "optimizer": adam.state_dict(),
        "loss_scaler": {"scale": 65536.0},
        "buffer": {"age": np.zeros(4), "num_seen_examples": 3, "video_data": torch.zeros(4, 2)},
        "epoch": 10,
    }
    path = saved(tmp_path / "checkpoint_0010.pth", content)
    found = narrow(path)
    assert (found.kind, found.initialized, found.skipped) == ("stella", (), {})
    assert found.beside == ("optimizer", "loss_scaler", "buffer", "epoch")
    assert ("avmatching_module", 14, "matching (the authors' pooling is strategy.official_pooling)") in [*found.rows()]
    exactly(found.matching["to_a_q.weight"], state["module.avmatching_module.to_a_q.weight"])
    assert len(found.matching) == 14

    out = tmp_path / "start.safetensors"
    found.save(out)
    backbone = CavMae.from_pretrained(out)
    initial = load_weights(out).fill(backbone)
    learner = Learner(backbone=backbone, strategy=Stella(heads=3, memory=Memory(capacity=4)), initial=initial)
    matching = learner.strategies[0].matching
    exactly(matching.to_a_q.weight.detach(), state["module.avmatching_module.to_a_q.weight"])
    exactly(matching.fc.bias.detach(), state["module.avmatching_module.matching_score.fc.bias"])
    exactly(backbone.video.fusion_table.detach(), state["module.backbone.transformer.inter_pos_embed_v"][0])


def test_a_state_dict_without_wrappers_is_stella_too(tmp_path):
    state = stella(matching=False)
    bare = {name.removeprefix("module.backbone.transformer."): value for name, value in state.items()}
    found = narrow(saved(tmp_path / "init_checkpoint.pth", bare))
    assert (found.kind, found.initialized, found.matching) == ("stella", (), {})


# ---- published sizes ----
@pytest.mark.parametrize(
    ("make", "kind", "form", "read", "parameters"),
    [
        (official.mae, "mae", "stella", 254, 185_534_976),
        (official.mae, "mae", "cav-mae", 254, None),
        (official.cavmae, "cav-mae", "cav-mae", 647, None),
        (official.stella, "stella", "stella", 420, 185_534_976),
    ],
)
def test_the_published_sizes_fit_to_the_last_tensor(make, kind, form, read, parameters):
    state = make(device="meta", **official.BASE)
    assert len(state) == read
    with torch.device("meta"):
        backbone = CavMae(form=form, frames=4 if form == "stella" else 1)
    found = fill(backbone, state, kind, "published")
    accounted = len({*found.copied.values()}) + len(found.skipped) + len(found.matching)
    assert accounted == len(state)
    assert sum(count for part, count, _ in found.rows() if part) == len(state)
    assert len(found.copied) + len(found.initialized) == len(backbone.state_dict())
    assert kind == "mae" or len({*found.copied.values()}) == len(backbone.state_dict())
    assert len(found.initialized) == {"mae": 7 if form == "stella" else 6}.get(kind, 0)
    if kind == "cav-mae":
        assert round(sum(value.numel() for value in state.values()) / 1e6, 3) == 191.036  # as its log says
    if parameters:
        assert sum(p.numel() for p in backbone.parameters()) == parameters


# ---- what cannot be used ----


def without(state, part):
    return {name: value for name, value in state.items() if part not in name}


def mae(**more):
    return official.mae(depth=4, **official.SMALL) | more


cavmae = functools.partial(official.cavmae, depth=2, **official.SMALL)
stella = functools.partial(official.stella, depth=1, fusion=1, frames=2, **official.SMALL)
EMBED, NO_WEIGHTS = "patch_embed.proj.weight", "holds what cannot be weights"
MAE, CAV = "not the weights of a mae model", "not the weights of a cav-mae model"
UNKNOWN = "not detected as an MAE, CAV-MAE or STELLA checkpoint"
NOT_OF, REMEDY = "not the weights of a", "build it with the settings that the weights were made with"
EXTRA = {"reg": torch.ones(1), "ls": torch.ones(1)}


@pytest.mark.parametrize(
    ("state", "options", "text"),
    [
        (lambda: mae(**{EMBED: torch.ones(48).long()}), {}, f"{NO_WEIGHTS}: {EMBED} is of torch.int64"),
        (lambda: mae(**{EMBED: torch.full((48, 3, 16, 16), math.nan)}), {}, f"{NO_WEIGHTS}: {EMBED} is not finite"),
        (
            lambda: without(mae(**EXTRA), "3.norm1.weight"),
            {},
            f"{MAE}: missing blocks.3.norm1.weight, unexpected reg, ...",
        ),
        (lambda: without(cavmae(), "blocks_a.1"), {"frames": 1}, f"{CAV}: missing blocks_a.1.norm1... and 8 more"),
        (mae, {"kind": "stella"}, f"{NOT_OF} stella model: missing patch_embed_v.proj.weight of 4 dimensions"),
        (stella, {"times": 1024, "mels": 128}, f"...audio.table is (8, 48) instead of (512, 48), ...; {REMEDY}"),
        (stella, {"frames": 3}, f"...: video.table is (8, 48) instead of (12, 48), ...; {REMEDY}"),
        (cavmae, {"frames": 1, "times": 128}, f"...: audio.table is (8, 48) instead of (16, 48), ...; {REMEDY}"),
        (mae, {"heads": None}, "heads cannot be detected for a width of 48: give --set heads=N"),
        (mae, {"fusion_depth": 4}, "has 4 blocks: must have more than fusion_depth = 4"),
        (mae, {"form": "cav-mae", "frames": 1, "zero_init": True}, "--zero-init is for an MAE in the form ..."),
        (lambda: EXTRA, {}, f"{UNKNOWN}: holds reg, ls; must be one of the authors', or timm's of a plain ViT"),
    ],
)
def test_a_checkpoint_that_cannot_be_converted_is_one_line(tmp_path, state, options, text):
    path = saved(tmp_path / "x.pth", {"state_dict": state()})
    settings = {**CLIPS, **HEADS, "frames": 2} | options
    kind, zero_init = settings.pop("kind", None), settings.pop("zero_init", False)
    settings = {key: value for key, value in settings.items() if value is not None}
    pattern = re.escape(f"{path}: {text}").replace(re.escape("..."), ".*")
    with pytest.raises(UserError, match=f"^{pattern}$"):
        convert_checkpoint(path, kind, settings, zero_init)


def test_a_backbone_of_the_other_form_is_refused():
    with torch.device("meta"):
        backbone = CavMae(size="tiny")
    with pytest.raises(UserError, match=r"^x: is of the form 'cav-mae', but the backbone has form = 'stella'$"):
        fill(backbone, {}, "cav-mae", "x")


def test_our_own_weights_need_no_conversion(tmp_path, whole_mae):
    path = tmp_path / "own.safetensors"
    narrow(whole_mae).save(path)
    with pytest.raises(UserError, match=r"own\.safetensors: written by avcl: no conversion needed; a run "):
        convert_checkpoint(path)


def test_a_vit_of_half_the_width_is_the_small_size(tmp_path):
    with torch.random.fork_rng():
        state = timm.create_model("vit_small_patch16_224", num_classes=7, depth=3).state_dict()
    found = convert_checkpoint(saved(tmp_path / "small.pth", state), settings={"fusion_depth": 1})
    backbone = found.backbone
    assert (backbone.size, backbone.heads, backbone.depth, backbone.decoder_dim) == ("small", 6, 2, 256)
    assert found.skipped["head.weight"] == "classification head"
    assert found.usage() == (
        "backbone: {name: cav-mae, size: small, depth: 2, fusion_depth: 1}, "
        "and clips of 4 x 224 x 224 pixels and 1024 x 128 of log-mel"
    )
