"""Weights files of avcl: what is saved comes back, in the same bytes every time, and what does not fit is named."""

import errno
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from avcl.backbones.cavmae import CavMae
from avcl.backbones.weights import load_state, load_weights, save_weights
from avcl.clip import Clip
from avcl.errors import UserError


def tiny(**settings):
    return CavMae(**{"size": "tiny", "frames": 1, "height": 32, "width": 32, "times": 64, "mels": 32, **settings})


def test_backbone_and_further_modules_come_back(tmp_path):
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


SAVE = """
torch.manual_seed(0)
backbone = CavMae(size="tiny", frames=1, height=32, width=32, times=64, mels=32)
save_weights(path, backbone, {"matching": {"a": torch.ones(2, dtype=torch.float16), "é": torch.ones(1)}})
"""


@pytest.mark.process
def test_equal_weights_give_equal_bytes_in_every_process(tmp_path):
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    imports = (
        "import sys, torch\nfrom avcl.backbones.cavmae import CavMae\nfrom avcl.backbones.weights import save_weights"
    )
    code = f"{imports}\npath = sys.argv[1]\n{SAVE}"
    subprocess.run([sys.executable, "-c", code, there], check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    exec(SAVE, globals() | {"path": here})
    assert here.read_bytes() == there.read_bytes()
    matching = load_weights(here).states["matching"]
    assert (matching["a"].dtype, matching["é"].tolist()) == (torch.float16, [1.0])


def test_wrong_shapes_and_names_are_one_line(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tiny())
    weights = load_weights(path)
    text = (
        f"{path}: does not fit CavMae: audio.table is (8, 96) instead of (16, 96), audio.fusion_table is (8, 96) "
        "instead of (16, 96), audio.decoder_table is (8, 64) instead of (16, 64); "
        "build it with the settings that the weights were made with"
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        load_state(tiny(times=128), weights.states["backbone"], path)
    with pytest.raises(UserError, match=r"^x: does not fit CavMae: missing audio\.modality, .* and \d+ more; build it"):
        load_state(tiny(), {}, "x")
    with pytest.raises(UserError, match="does not fit Linear: unexpected extra; "):
        load_state(torch.nn.Linear(1, 1, bias=False), {"weight": torch.ones(1, 1), "extra": torch.ones(1)}, "x")
    # a run is given the settings that would fit
    with pytest.raises(UserError, match=r" and \d+ more; build it with .* were made with: dim=96, mask_ratio=0.6$"):
        weights.fill(tiny(dim=48, mask_ratio=0.5))


def test_a_refused_state_leaves_the_module_alone():
    backbone = tiny()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    del state["norm.weight"]
    with pytest.raises(UserError, match=r"missing norm\.weight"):
        load_state(backbone, state, "x")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


OURS = {"format": "avcl", "name": "x"}
UNNAMED = "corrupt: no name and settings of a backbone in its metadata; write it again"


@pytest.mark.parametrize(
    ("tensor", "metadata", "text"),
    [
        ("backbone.a", None, "not written by avcl; convert it with `avcl weights import`"),
        ("backbone.a", {"format": "avcl"}, UNNAMED),
        ("backbone.a", OURS | {"settings": "{"}, UNNAMED),
        ("backbone.a", OURS | {"settings": "5"}, UNNAMED),
        ("matching.a", OURS | {"settings": "{}"}, "corrupt: no backbone, only matching; write it again"),
    ],
)
def test_files_that_are_not_ours(tmp_path, tensor, metadata, text):
    path = tmp_path / "x.safetensors"
    save_file({tensor: torch.ones(1)}, path, metadata)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {text}')}$"):
        load_weights(path)


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"x\.safetensors: no such file$"):
        load_weights(path)
    save_weights(path, tiny())
    for content in (b"hello", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.safetensors: not a safetensors file \("):
            load_weights(path)


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_weights(path, tiny(mask_ratio=0.5))
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: {str(path)!r}$"):
        save_weights(path, tiny())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_pretrained_folder_and_features_in_three_lines(tmp_path):
    backbone = tiny(form="cav-mae")
    backbone.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == backbone.settings()

    again = CavMae.from_pretrained(tmp_path)
    clip = Clip.cut(torch.randn(2, 1, 3, 32, 32), torch.randn(2, 1, 64, 32), again.patch)
    audio, video = again.embed(clip)

    assert (audio.shape, video.shape) == ((2, 96), (2, 96))
    assert torch.equal(audio, backbone.embed(clip)[0])
    assert CavMae.from_pretrained(tmp_path, mask_ratio=0.3).mask_ratio == 0.3
    with pytest.raises(UserError, match=r"^mask_ration: unknown setting; did you mean 'mask_ratio'\?$"):
        CavMae.from_pretrained(tmp_path, mask_ration=0.3)
    with pytest.raises(UserError, match=r"model\.safetensors: does not fit CavMae: audio\.table is"):
        CavMae.from_pretrained(tmp_path, times=128)
