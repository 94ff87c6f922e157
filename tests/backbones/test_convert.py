"""Weights that others trained: they mean here what they meant there, and every tensor is accounted for."""

import functools
import math
import re

import numpy as np
import pytest
import timm
import torch
from helpers import official
from safetensors.torch import save_file
from typer.testing import CliRunner

from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.importing import fill, import_weights
from avcl.backbones.weights import load_weights
from avcl.cli.main import app
from avcl.clip import Clip
from avcl.errors import SettingsError, UserError
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.stella import Stella
from avcl.testing import Noise
from avcl.training.learner import Learner

CLIPS = {"height": 32, "width": 32, "times": 64, "mels": 32}
HEADS = {"heads": 3, "decoder_heads": 4}
exactly = functools.partial(torch.testing.assert_close, rtol=0, atol=0)
close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-5)


def saved(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def whole_mae(tmp_path_factory):
    """An MAE with its decoder, as its authors publish it, but narrow and four blocks deep."""
    path = tmp_path_factory.mktemp("mae") / "mae_full.pth"
    return saved(path, {"model": official.mae(depth=4, **official.SMALL)})


def narrow(source, **settings):
    return import_weights(source, settings={**CLIPS, **HEADS, "frames": 2, **settings})


# ---- MAE ---------------------------------------------------------------------------------------------------


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
    path = saved(tmp_path / "timm.pth", picture_model.state_dict())
    backbone = import_weights(path, settings={**CLIPS, "heads": 3, "frames": 2}, zeros=True).backbone
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
        fused = one - table
        for block in backbone.fusion:
            fused = block(fused, "video")
        assert (backbone.video.norm(fused) - picture_model.norm(tokens)).norm() <= off * picture_model.norm(
            tokens
        ).norm()
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
    assert found.left == {"cls_token": "the backbone has no class token"}
    assert set(found.fresh) == {
        *(f"audio.{table}" for table in ("table", "fusion_table", "decoder_table")),
        *(f"{kind}.{token}" for kind in ("audio", "video") for token in ("modality", "decoder_modality")),
    }
    assert len(found.copied) + len(found.fresh) == len(ours)


def test_what_an_mae_has_not_begins_as_in_any_backbone_or_at_zero(whole_mae):
    found = narrow(whole_mae)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        again = narrow(whole_mae)
    zeros = import_weights(whole_mae, settings={**CLIPS, **HEADS, "frames": 2}, zeros=True)
    new = CavMae(**found.backbone.settings())
    for key in ("audio.table", "audio.fusion_table", "audio.decoder_table"):
        exactly(found.backbone.state_dict()[key], new.state_dict()[key])
    for key in found.fresh:
        exactly(found.backbone.state_dict()[key], again.backbone.state_dict()[key])
        assert found.backbone.state_dict()[key].any()
        assert not zeros.backbone.state_dict()[key].any()
    for key in found.copied:
        exactly(found.backbone.state_dict()[key], zeros.backbone.state_dict()[key])


def test_an_encoder_alone_gets_a_new_decoder_and_says_so(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_file(official.mae(depth=4, whole=False, **official.SMALL), path)
    found = import_weights(path, settings={**CLIPS, "heads": 3, "frames": 2})
    assert (found.backbone.decoder_dim, found.backbone.decoder_depth) == (512, 8)
    zeros = import_weights(path, settings={**CLIPS, "heads": 3, "frames": 2}, zeros=True)
    assert not zeros.backbone.audio.decoder_table.any()
    assert zeros.backbone.decoder_embed.weight.all()
    new = [*found.rows()][-1][2]
    assert new.startswith("new: audio.modality, ")
    for part in ("decoder_embed", "decoder_blocks.0-7", "decoder_norm", "mask_tokens.audio", "video.head"):
        assert part in new.removeprefix("new: ").split(", ")


def test_an_mae_in_the_form_of_cav_mae(whole_mae):
    """CAV-MAE's authors: one fusion block, one mask token, and spectrograms that lie on their side."""
    found = import_weights(whole_mae, settings={**CLIPS, **HEADS, "form": "cav-mae"})
    mae, ours = torch.load(whole_mae, weights_only=True)["model"], found.backbone.state_dict()
    assert (found.backbone.depth, found.backbone.fusion_depth, found.backbone.frames) == (3, 1, 1)
    exactly(ours["fusion.0.norm1.audio.weight"], mae["blocks.3.norm1.weight"])
    exactly(ours["mask_tokens.joint"], mae["mask_token"][0, 0])
    exactly(ours["audio.embed.weight"][:, 2 * 16 + 5], mae["patch_embed.proj.weight"].sum(1)[:, 5, 2])
    with pytest.raises(
        UserError, match=r"zeros are for an MAE in the form 'stella', whose tables learn; leave out --z"
    ):
        import_weights(whole_mae, settings={**CLIPS, **HEADS, "form": "cav-mae"}, zeros=True)


# ---- CAV-MAE and STELLA ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, 309])
def test_cav_mae_pretrained_and_fine_tuned(tmp_path, head):
    state = official.cavmae(depth=2, whole=head is None, head=head, **official.SMALL)
    state |= {f"module.cls_token_{kind}": torch.zeros(1, 1, 48) for kind in ("a", "v", "av")}
    found = import_weights(saved(tmp_path / "audio_model.pth", state), settings={"times": 64, "mels": 32, **HEADS})
    backbone = found.backbone
    assert (found.kind, backbone.form, backbone.depth, backbone.fusion_depth) == ("cav-mae", "cav-mae", 2, 1)
    assert (backbone.height, backbone.frames, backbone.dim) == (32, 1, 48)
    exactly(backbone.fusion[0].norm1["video"].weight.detach(), state["module.blocks_u.0.norm1_v.weight"])
    reasons = {name: why for name, why in found.left.items() if "cls_token" in name or "head" in name}
    assert found.left["blocks_a.0.norm1_a.weight"] == "nothing reads it"
    if head:
        assert reasons["mlp_head.1.weight"] == "a classifier's head"
        assert len(found.left) == 3 + 4 + 8 * 4
        assert {"decoder_embed.weight", "mask_tokens.joint", "audio.head.bias"} <= {*found.fresh}
        assert not any("decoder" in ours or "head" in ours for ours in found.copied)
    else:
        assert found.fresh == ()
    assert len(found.copied) + len(found.fresh) == len(backbone.state_dict())


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
    assert (found.kind, found.fresh, found.left) == ("stella", (), {})
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
    state = official.stella(depth=1, fusion=1, frames=2, matching=False, **official.SMALL)
    bare = {name.removeprefix("module.backbone.transformer."): value for name, value in state.items()}
    found = narrow(saved(tmp_path / "init_checkpoint.pth", bare))
    assert (found.kind, found.fresh, found.matching) == ("stella", (), {})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x: x.long(), "patch_embed.proj.weight is of torch.int64"),
        (lambda x: x * math.nan, "patch_embed.proj.weight is not finite"),
    ],
)
def test_what_cannot_be_weights_is_named(tmp_path, spoil, told):
    state = official.mae(depth=3, **official.SMALL)
    state["patch_embed.proj.weight"] = spoil(state["patch_embed.proj.weight"])
    with pytest.raises(UserError, match=f"x.pth: holds what cannot be weights: {told}$"):
        narrow(saved(tmp_path / "x.pth", {"state_dict": state}))


# ---- published sizes ---------------------------------------------------------------------------------------


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
    accounted = len({*found.copied.values()}) + len(found.left) + len(found.matching)
    assert accounted == len(state)
    assert sum(count for part, count, _ in found.rows() if part) == len(state)
    assert len(found.copied) + len(found.fresh) == len(backbone.state_dict())
    assert len(found.fresh) == {"mae": 7 if form == "stella" else 6}.get(kind, 0)
    if kind == "cav-mae":
        assert round(sum(value.numel() for value in state.values()) / 1e6, 3) == 191.036  # as its log says
    if parameters:
        assert sum(p.numel() for p in backbone.parameters()) == parameters


# ---- what cannot be used -----------------------------------------------------------------------------------


def refused(path, **more):
    with pytest.raises(UserError) as error:
        import_weights(path, **more)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def test_missing_and_unexpected_tensors_are_named_as_they_are_in_the_file(tmp_path):
    state = official.mae(depth=4, **official.SMALL)
    del state["blocks.3.norm1.weight"], state["decoder_norm.bias"]
    state |= {"ls1.gamma": torch.ones(1), "reg_token": torch.ones(1)}
    told = refused(saved(tmp_path / "x.pth", state), settings={**CLIPS, **HEADS})
    assert told == (
        "not the weights of a mae model: missing blocks.3.norm1.weight, missing decoder_norm.bias, "
        "unexpected ls1.gamma, unexpected reg_token"
    )
    told = refused(saved(tmp_path / "y.pth", official.mae(depth=4, **official.SMALL)), kind="stella")
    assert told == "not the weights of a stella model: missing patch_embed_v.proj.weight of 4 dimensions"
    state = {
        name: value for name, value in official.cavmae(depth=2, **official.SMALL).items() if "blocks_a.1" not in name
    }
    told = refused(saved(tmp_path / "z.pth", state), settings={"times": 64, "mels": 32, **HEADS})
    assert told.startswith("not the weights of a cav-mae model: missing blocks_a.1.norm1.weight, missing ")
    assert told.endswith(" and 8 more")


def test_other_shapes_and_sizes_say_what_to_set(tmp_path, whole_mae):
    told = refused(whole_mae)
    assert told == "no tensor tells how many heads a width of 48 has: give --set heads=N"
    told = refused(
        saved(tmp_path / "s.pth", official.stella(depth=1, fusion=1, frames=2, **official.SMALL)), settings=HEADS
    )
    assert "audio.table is (8, 48) instead of (512, 48), " in told
    assert told.endswith("build it with the settings that the weights were made with")
    with pytest.raises(SettingsError, match=r"^mask_ration: unknown setting; did you mean 'mask_ratio'\?$"):
        import_weights(whole_mae, settings={"mask_ration": 0.5})
    with pytest.raises(SettingsError, match=r"^times: 60 is not a multiple of patch = 16$"):
        narrow(whole_mae, times=60)
    with pytest.raises(UserError, match=r"has 4 blocks, and the last 4 are to fuse: more are needed$"):
        narrow(whole_mae, fusion_depth=4)


def test_a_vit_of_half_the_width_is_the_small_size(tmp_path):
    with torch.random.fork_rng():
        state = timm.create_model("vit_small_patch16_224", num_classes=7, depth=3).state_dict()
    found = import_weights(saved(tmp_path / "small.pth", state), settings={"fusion_depth": 1})
    backbone = found.backbone
    assert (backbone.size, backbone.heads, backbone.depth, backbone.decoder_dim) == ("small", 6, 2, 256)
    assert found.left["head.weight"] == "a classifier's head"
    assert found.usage() == (
        "backbone: {name: cav-mae, size: small, depth: 2, fusion_depth: 1}, "
        "and clips of 4 x 224 x 224 pixels and 1024 x 128 of log-mel"
    )


def test_files_of_something_else(tmp_path, whole_mae):
    told = refused(saved(tmp_path / "other.pth", {"vit.embeddings.cls_token": torch.ones(1)}))
    assert told == (
        "has no tensor by which to know an MAE, CAV-MAE or STELLA checkpoint, but vit.embeddings.cls_token; "
        "allowed are those of the authors, and timm's for a plain ViT"
    )
    narrow(whole_mae).save(tmp_path / "own.safetensors")
    told = refused(tmp_path / "own.safetensors")
    assert told == "is avcl's own already; start a run from it by the setting weights"


# ---- the command -------------------------------------------------------------------------------------------


def command(*words):
    return CliRunner().invoke(app, ["weights", *map(str, words)])


def sets(**settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def test_the_command_and_a_run_that_starts_from_what_it_wrote(tmp_path, whole_mae):
    out = tmp_path / "new folder" / "mae.safetensors"
    result = command("import", whole_mae, "--out", out, *sets(**CLIPS, **HEADS, frames=2))
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["blocks.0-1", "24", "audio.blocks,", "video.blocks"] in lines
    assert ["blocks.2-3", "24", "fusion"] in lines
    assert ["cls_token", "1", "left", "out:", "the", "backbone", "has", "no", "class", "token"] in lines
    assert "mae, 86 tensors: 85 fill " in result.stdout
    assert "85 fill 135 of the backbone, 1 left out; 7 of the backbone are new" in result.stdout
    assert [path.name for path in out.parent.iterdir()] == ["mae.safetensors"]
    shown = command("show", out)
    assert "  dim: 48\n" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("backbone: 142 tensors, ")

    weights = load_weights(out)
    backbone = CavMae(**weights.settings | {"mask_ratio": 0.5})
    run = Run(scenario=Noise(), backbone=backbone, strategies=[], folder=tmp_path / "run", weights=weights)
    exactly(run.backbone.norm.weight.detach(), CavMae.from_pretrained(out).norm.weight.detach())


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, whole_mae):
    out = tmp_path / "out.safetensors"
    for words, told in (
        ((whole_mae, "--out", tmp_path / "out.pt"), f"--out: '{tmp_path}/out.pt' is not allowed: a name that ends in"),
        (
            (whole_mae, "--out", out),
            f"{whole_mae}: no tensor tells how many heads a width of 48 has: give --set heads=N",
        ),
        ((whole_mae, "--out", out, "--kind", "mea"), "--kind: 'mea' is not allowed: mae, cav-mae or stella is needed"),
        ((tmp_path / "no.pth", "--out", out), f"{tmp_path}/no.pth: no such file"),
    ):
        result = command("import", *words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"avcl: {told}")
        assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    words = ("--out", tmp_path / "file" / "x.safetensors", *sets(**CLIPS, **HEADS))
    result = command("import", whole_mae, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"avcl: .*/file/x\.safetensors: cannot be written \(File exists: '.*/file'\)\n", result.stderr)
