"""Weights from and to the Hugging Face Hub, of which a server on this machine plays the part."""

import http.server
import json
import re
import shutil
import threading
import zlib
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from avcl import Embedder
from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.convert import convert_checkpoint
from avcl.errors import UserError

CLIPS = {"height": 32, "width": 32, "times": 64, "mels": 32}


class Server(http.server.SimpleHTTPRequestHandler):
    """Gives the files below a folder: /<owner>/<name>/resolve/main/<file>."""

    def translate_path(self, path):
        return super().translate_path(path.replace("/resolve/main/", "/"))

    def end_headers(self):
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{zlib.crc32(self.path.encode()):x}"')
        super().end_headers()

    def send_error(self, code, *_):
        self.send_response(code)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of a hub: what is uploaded comes to lie in it, what is asked for comes from it."""
    home = tmp_path / "hub"
    home.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *how: Server(*how, directory=home))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def create_repo(self, repo_id, **_):
        (home / repo_id).mkdir(parents=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, home / repo_id, dirs_exist_ok=True)
        return f"{address}/{repo_id}"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    yield home
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["timm/vit_base_patch16_224.mae", "vit_base_patch16_224.mae"])
def test_a_model_of_timm_is_fetched_by_its_name(hub, name):
    sizes = {"img_size": 32, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 0}
    state = timm.create_model("vit_base_patch16_224.mae", pretrained=False, **sizes).state_dict()
    (hub / "timm/vit_base_patch16_224.mae").mkdir(parents=True)
    save_file(state, hub / "timm/vit_base_patch16_224.mae/model.safetensors")
    found = convert_checkpoint(name, settings={**CLIPS, "heads": 3})
    assert (found.kind, found.source) == ("mae", name)
    assert torch.equal(found.backbone.video.blocks[1].attn.qkv.weight, state["blocks.1.attn.qkv.weight"])


def test_what_is_pushed_is_what_comes_back(hub, tmp_path):
    backbone = CavMae(size="tiny", frames=1, mask_ratio=0.5, **CLIPS)
    backbone.preprocessing = {"frames": 1, **CLIPS, "window": 2.0}
    backbone.push_to_hub("somebody/tiny")
    pushed = {path.name for path in (hub / "somebody/tiny").iterdir()}
    assert pushed == {"config.json", "model.safetensors", "README.md"}
    assert json.loads((hub / "somebody/tiny/config.json").read_text()) == backbone.settings()
    for source in ("somebody/tiny", hub / "somebody/tiny", hub / "somebody/tiny/model.safetensors"):
        again = CavMae.from_pretrained(source)
        assert again.settings() == backbone.settings()
        assert again.preprocessing == backbone.preprocessing
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
    assert CavMae.from_pretrained("somebody/tiny", temperature=0.1).temperature == 0.1
    embedder = Embedder.from_pretrained("somebody/tiny", device="cpu")
    assert (embedder.preprocessing.window, embedder.preprocessing.sample_rate) == (2.0, 16000)


def test_what_is_not_there_is_one_line(hub):
    with pytest.raises(UserError) as error:
        convert_checkpoint("timm/vit_of_nobody")
    assert str(error.value) == (
        "timm/vit_of_nobody: no such file or folder, and no model.safetensors of that name comes from the Hugging "
        "Face Hub (RepositoryNotFoundError); fetch it where there is a network, and give the file"
    )
    with pytest.raises(UserError, match=r"^somebody/nothing: no such file or folder, and no model\.safetensors"):
        CavMae.from_pretrained("somebody/nothing")
    for name in ("nowhere.pth", "a/b/c", "weights/nowhere.safetensors"):
        with pytest.raises(UserError, match=f"^{re.escape(name)}: no such file$"):
            convert_checkpoint(name)
    (hub / "empty").mkdir()
    with pytest.raises(UserError) as error:
        CavMae.from_pretrained(hub / "empty")
    assert str(error.value) == (
        f"{hub / 'empty'}: holds no weights: neither model.safetensors nor weights.safetensors, "
        "which a run writes at its end"
    )
