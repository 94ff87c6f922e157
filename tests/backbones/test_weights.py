"""Weights on disk: what comes back, what is refused, and that every name of an official checkpoint is accounted for."""

import functools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.importing import fill
from avcl.backbones.convert.names import official_name
from avcl.backbones.convert.read import read_checkpoint
from avcl.backbones.weights import load_state, load_weights, save_weights
from avcl.clip import Clip
from avcl.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden"
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


def test_a_run_that_does_not_fit_is_told_the_settings_that_would(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tiny(dim=48, mask_ratio=0.5))
    text = r"does not fit CavMae: .* and \d+ more; build it with the settings that the weights were made with: dim=48, "
    with pytest.raises(UserError, match=f"{text}mask_ratio=0.5$"):
        load_weights(path).fill(tiny())


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
    with pytest.raises(UserError, match=r"not written by avcl; `avcl weights import` makes what avcl reads of it$"):
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


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tiny(mask_ratio=0.5))
    before = path.read_bytes()

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("avcl.backbones.weights.save_file", full)
    with pytest.raises(UserError, match=r"weights\.safetensors: cannot be written \(.*No space left on device"):
        save_weights(path, tiny())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "weights.safetensors", tiny())
    finally:
        os.umask(before)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == 0o640


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
    matching = fill(backbone, state, "stella", "x").matching
    fill(twin, golden("stella_steps"), "stella", "x")
    assert all(torch.equal(p, q) for p, q in zip(backbone.parameters(), twin.parameters(), strict=True))
    assert len(matching) == 14
    assert torch.equal(matching["to_a_q.weight"], golden("stella_steps")["avmatching_module.to_a_q.weight"])


def test_missing_and_misshapen_official_names():
    state = golden("stella_steps")
    del state["backbone.transformer.blocks_u.0.norm2_v.bias"]
    with pytest.raises(UserError, match=r"^x: not the weights of a stella model: missing blocks_u\.0\.norm2_v\.bias$"):
        fill(stella(), state, "stella", "x")
    with pytest.raises(UserError, match=r"video\.table is \(18, 48\) instead of \(27, 48\), "):
        more = CavMae(**{**STELLA, "frames": 3}, **DECODER, decoder_depth=1)
        fill(more, golden("stella_steps"), "stella", "x")
    with pytest.raises(UserError, match=r"audio\.table is \(128, 48\) instead of \(64, 48\), "):
        fill(CavMae(**{**CAV_MAE, "times": 128}, **DECODER, decoder_depth=2), golden("cavmae"), "cav-mae", "x")


def test_the_other_form_is_refused():
    with pytest.raises(UserError, match=r"^x: is of the form 'cav-mae', but the backbone has form = 'stella'$"):
        fill(stella(), golden("cavmae"), "cav-mae", "x")
    with pytest.raises(UserError, match=r"^x: is of the form 'stella', but the backbone has form = 'cav-mae'$"):
        fill(cavmae(), golden("stella_steps"), "stella", "x")


# --- files that others wrote --------------------------------------------------------------------------------


def test_official_files_are_read_from_pth_and_safetensors(tmp_path):
    state = golden("cavmae")
    torch.save(state, tmp_path / "state.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"model": state, "epoch": 3}, tmp_path / "whole.pth")
    save_file(state, tmp_path / "state.safetensors")
    for file in ("state.pth", "old.pth", "whole.pth", "state.safetensors"):
        read, beside = read_checkpoint(tmp_path / file)
        assert beside == (("epoch",) if file == "whole.pth" else ())
        fill(cavmae(), read, "cav-mae", file)


def touch(path):
    path.touch()


class Traced:
    """Leaves a trace where it is unpickled, in one of the ways that a pickle has to run code."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (touch, (self.trace,))


class Restored(Traced):
    """As above, on the road of objects with a state."""

    __reduce__ = object.__reduce__

    def __setstate__(self, state):
        state["trace"].touch()


@pytest.mark.parametrize("kind", [Traced, Restored])
def test_nothing_that_a_file_names_is_run(tmp_path, kind):
    trace, state = tmp_path / "trace", {"a": torch.ones(2)}
    torch.save({"model": state, "sampler": kind(trace), "age": np.zeros(3)}, tmp_path / "whole.pth")
    read, beside = read_checkpoint(tmp_path / "whole.pth")
    assert (list(read), beside) == (["a"], ("sampler", "age"))
    assert torch.equal(read["a"], state["a"])
    assert not trace.exists()
    torch.load(tmp_path / "whole.pth", weights_only=False)
    assert trace.exists()  # it would have been


class System:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_files_that_are_no_checkpoint(tmp_path):
    def refused(name):
        with pytest.raises(UserError) as error:
            read_checkpoint(tmp_path / name)
        return str(error.value).removeprefix(f"{tmp_path / name}: ")

    unreadable = "not a checkpoint that can be read without running what it names"
    mend = (
        "where you trust it, save its state dict by itself: "
        "torch.save(torch.load(path, weights_only=False)['model'], 'model.pth')"
    )
    torch.save({"model": {}, "sampler": System()}, tmp_path / "system.pth")
    assert refused("system.pth") == f"{unreadable}; {mend}"
    torch.save(golden("cavmae"), tmp_path / "good.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:5000])
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    for name in ("cut.pth", "text.pth", "empty.pth"):
        assert refused(name).startswith("damaged, or not a file of torch.save (")
    torch.save([1, 2], tmp_path / "list.pth")
    assert refused("list.pth") == "holds a list, not names and tensors of a model"
    torch.save(System, tmp_path / "class.pth")
    assert refused("class.pth").endswith("not names and tensors of a model")
    torch.save({"model": {"a": 1}}, tmp_path / "numbers.pth")
    assert refused("numbers.pth") == "holds a dict, not names and tensors of a model"
    assert refused("nowhere.pth") == "no such file"
    for odd in ({}, {1: torch.ones(1)}, {"a": torch.ones(2, 2).to_sparse()}, {"a": torch.ones(1, device="meta")}):
        torch.save({"state_dict": odd}, tmp_path / "odd.pth")
        assert refused("odd.pth") == "holds a dict, not names and tensors of a model"


@pytest.mark.parametrize(
    ("tensors", "about", "told"),
    [
        ({"backbone.a": 1}, {}, "does not say what it is the weights of"),
        ({"backbone.a": 1}, {"name": "x", "settings": "{"}, "does not say what it is the weights of"),
        ({"backbone.a": 1}, {"name": "x", "settings": "5"}, "does not say what it is the weights of"),
        ({"matching.a": 1}, {"name": "x", "settings": "{}"}, "it has no backbone, only matching"),
    ],
)
def test_files_that_say_too_little(tmp_path, tensors, about, told):
    path = tmp_path / "little.safetensors"
    save_file({key: torch.ones(value) for key, value in tensors.items()}, path, {"format": "avcl", **about})
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: damaged: .*{told}.*; make it anew$"):
        load_weights(path)


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / f"{'n' * 243}.safetensors"
    save_weights(path, stella())
    assert load_weights(path).name
    assert list(tmp_path.iterdir()) == [path]
