"""Weights on disk: what comes back, what is refused, and that every name of an official checkpoint is accounted for."""

import functools
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avcl.backbones.cavmae import CavMae
from avcl.backbones.weights import (
    load_cavmae,
    load_state,
    load_stella,
    load_weights,
    official_name,
    read_state,
    save_weights,
)
from avcl.clip import Clip
from avcl.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
DECODER = {"decoder_dim": 32, "decoder_heads": 4}
STELLA = {"frames": 2, "height": 48, "width": 48, "times": 128, "dim": 48, "heads": 3, "depth": 2, "fusion_depth": 1}
CAV_MAE = {"form": "cav-mae", "frames": 1, "height": 64, "width": 64, "times": 256, "dim": 48, "heads": 4}


def stella():
    return CavMae(**STELLA, **DECODER, decoder_depth=1)


def cavmae():
    return CavMae(**CAV_MAE, **DECODER, decoder_depth=2)


def tiny(**settings):
    return CavMae(**{"size": "tiny", "frames": 1, "height": 32, "width": 32, "times": 64, "mels": 32, **settings})


@functools.cache
def _golden(name):
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    return {key.removeprefix("weights/"): value for key, value in tensors.items() if key.startswith("weights/")}


def golden(name):
    return dict(_golden(name))


# --- our own files ------------------------------------------------------------------------------------------


def test_own_file_brings_back_backbone_and_further_modules(tmp_path):
    path = tmp_path / "weights.safetensors"
    backbone, matching = tiny(mask_ratio=0.5), torch.nn.Linear(3, 2)
    save_weights(path, backbone, {"matching": matching})
    weights = load_weights(path)
    assert (weights.name, weights.settings) == ("cav-mae", backbone.settings())
    assert weights.states.keys() == {"backbone", "matching"}

    again, head = CavMae(**weights.settings), torch.nn.Linear(3, 2)
    load_state(again, weights.states["backbone"], path)
    load_state(head, weights.states["matching"], path)
    for module, twin in ((backbone, again), (matching, head)):
        for key, value in module.state_dict().items():
            assert torch.equal(value, twin.state_dict()[key]), key


def test_wrong_sizes_and_names_are_one_line(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tiny())
    state = load_weights(path).states["backbone"]
    text = (
        f"{path}: does not fit CavMae: audio.table is (8, 96) instead of (16, 96), audio.fusion_table is (8, 96) "
        "instead of (16, 96), audio.decoder_table is (8, 64) instead of (16, 64); "
        "build it with the settings that the weights were made with"
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        load_state(tiny(times=128), state, path)
    with pytest.raises(UserError, match=r"missing audio\.modality, .* and \d+ more; build it") as error:
        load_state(tiny(), {}, path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="does not fit Linear: unexpected extra; "):
        load_state(torch.nn.Linear(1, 1, bias=False), {"weight": torch.ones(1, 1), "extra": torch.ones(1)}, "x")


def test_a_refused_state_leaves_the_module_alone():
    backbone = tiny()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    del state["norm.weight"]
    with pytest.raises(UserError, match=r"missing norm\.weight"):
        load_state(backbone, state, "x")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_files_that_are_not_ours(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.safetensors: no such file$"):
        load_weights(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"text\.safetensors: not a safetensors file \("):
        load_weights(tmp_path / "text.safetensors")
    with pytest.raises(UserError, match=r"not written by avcl: import it with load_cavmae or load_stella$"):
        load_weights(GOLDEN / "cavmae.safetensors")
    whole = tmp_path / "whole.safetensors"
    save_weights(whole, tiny())
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.safetensors: not a safetensors file \("):
        load_weights(tmp_path / "cut.safetensors")


def test_pretrained_folder_and_features_in_three_lines(tmp_path):
    backbone = tiny(form="cav-mae")
    backbone.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == backbone.settings()

    again = CavMae.from_pretrained(tmp_path)
    clip = Clip.cut(torch.randn(2, 1, 3, 32, 32), torch.randn(2, 1, 64, 32), again.patch)
    audio, video = again.embed(clip)

    assert (audio.shape, video.shape) == ((2, 96), (2, 96))
    assert torch.equal(audio, backbone.embed(clip)[0])
    assert load_weights(tmp_path / "model.safetensors").settings == backbone.settings()


def test_pretrained_folder_with_other_settings_is_refused(tmp_path):
    tiny().save_pretrained(tmp_path)
    assert CavMae.from_pretrained(tmp_path, mask_ratio=0.3).mask_ratio == 0.3
    with pytest.raises(UserError, match=r"^mask_ration: unknown setting; did you mean 'mask_ratio'\?$"):
        CavMae.from_pretrained(tmp_path, mask_ration=0.3)
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit CavMae: audio\.table is"):
        CavMae.from_pretrained(tmp_path, times=128)


# --- official checkpoints -----------------------------------------------------------------------------------


def test_every_parameter_has_one_official_name():
    for backbone, name in ((stella(), "stella_steps"), (cavmae(), "cavmae")):
        official = [official_name(key, backbone.form) for key in backbone.state_dict()]
        assert len(set(official)) == len(official)
        in_file = {key.removeprefix("backbone.transformer.") for key in golden(name)}
        assert set(official) <= in_file


def test_prefixes_of_wrappers_and_the_matching_module():
    state = {f"module.{key}": value for key, value in golden("stella_steps").items()}
    backbone, twin = stella(), stella()
    matching = load_stella(backbone, state)
    load_stella(twin, golden("stella_steps"))
    assert all(torch.equal(p, q) for p, q in zip(backbone.parameters(), twin.parameters(), strict=True))
    assert len(matching) == 14
    assert torch.equal(matching["to_a_q.weight"], golden("stella_steps")["avmatching_module.to_a_q.weight"])


def test_official_cavmae_leaves_out_only_what_nothing_reads():
    state = {f"module.{key}": value for key, value in golden("cavmae").items()}
    state |= {f"module.cls_token_{kind}": torch.zeros(1, 1, 48) for kind in ("a", "v", "av")}
    load_cavmae(cavmae(), state)
    state["module.mlp_head.1.weight"] = torch.zeros(309, 48)
    with pytest.raises(UserError, match=r"^best\.pth: does not fit CavMae: unexpected mlp_head\.1\.weight;"):
        load_cavmae(cavmae(), state, "best.pth")


def test_missing_and_misshapen_official_names():
    state = golden("stella_steps")
    del state["backbone.transformer.blocks_u.0.norm2_v.bias"]
    with pytest.raises(UserError, match=r"missing fusion\.0\.norm2\.video\.bias;"):
        load_stella(stella(), state)
    with pytest.raises(UserError, match=r"video\.table is \(18, 48\) instead of \(27, 48\), "):
        load_stella(CavMae(**{**STELLA, "frames": 3}, **DECODER, decoder_depth=1), golden("stella_steps"))
    with pytest.raises(UserError, match=r"audio\.table is \(128, 48\) instead of \(64, 48\), "):
        load_cavmae(CavMae(**{**CAV_MAE, "times": 128}, **DECODER, decoder_depth=2), golden("cavmae"))


def test_the_other_form_is_refused():
    with pytest.raises(UserError, match=r"fits the form 'cav-mae', but the backbone has form = 'stella'$"):
        load_cavmae(stella(), golden("cavmae"))
    with pytest.raises(UserError, match=r"fits the form 'stella', but the backbone has form = 'cav-mae'$"):
        load_stella(cavmae(), golden("stella_steps"))


def test_official_files_are_read_from_pth_and_safetensors(tmp_path):
    state = golden("cavmae")
    torch.save(state, tmp_path / "state.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "whole.pth")
    save_file(state, tmp_path / "state.safetensors")
    for file in ("state.pth", "whole.pth", "state.safetensors"):
        load_cavmae(cavmae(), read_state(tmp_path / file), file)


class Unpickled:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def test_nothing_but_tensors_is_unpickled(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": {}, "sampler": Unpickled(trace)}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth: not a checkpoint of tensors alone \(UnpicklingError\);"):
        read_state(tmp_path / "bad.pth")
    assert not trace.exists()
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pth: not a checkpoint of tensors alone"):
        read_state(tmp_path / "text.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match=r"empty\.pth: not a checkpoint of tensors alone"):
        read_state(tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: holds a list, not names and tensors of a model$"):
        read_state(tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth: no such file$"):
        read_state(tmp_path / "nowhere.pth")
