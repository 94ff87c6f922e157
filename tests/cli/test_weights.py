"""``avcl weights``: a checkpoint is converted, shown and trained from; a mistake is one line."""

import re

import pytest
import torch
from helpers import official
from typer.testing import CliRunner

from avcl.backbones.cavmae import CavMae
from avcl.backbones.weights import load_weights
from avcl.cli.main import app
from avcl.experiment.run import Run
from avcl.testing import Noise

SETTINGS = {"height": 32, "width": 32, "times": 64, "mels": 32, "frames": 2, "heads": 3, "decoder_heads": 4}
SETS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    path = tmp_path_factory.mktemp("mae") / "mae_full.pth"
    torch.save({"model": official.mae(depth=4, **official.SMALL)}, path)
    return path


def command(*words):
    return CliRunner().invoke(app, ["weights", *map(str, words)])


def test_a_run_starts_from_a_converted_mae(tmp_path, mae):
    out = tmp_path / "new folder" / "mae.safetensors"
    result = command("import", mae, "--out", out, *SETS)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "checkpoint tensors converted to" in lines
    assert "blocks.0-1 24 audio.blocks, video.blocks" in lines
    assert "blocks.2-3 24 fusion" in lines
    assert "cls_token 1 skipped: the backbone has no class token" in lines
    assert "mae, 86 tensors: 85 fill 135 of the backbone, 1 skipped; 7 newly initialized" in " ".join(lines)
    assert "preprocessing as published: 2 frames in 4 s of the first 10 s, 32 x 32, log-mel of 64 x 32" in lines
    assert list(out.parent.iterdir()) == [out]
    shown = command("show", out).stdout.splitlines()
    assert "  dim: 48" in shown
    assert {"preprocessing:", "  rendered: false", "  window: 4.0", "  seconds: 10.0"} <= set(shown)
    assert re.fullmatch(r"backbone: 142 tensors, [\d,]+ parameters", shown[-1])

    weights = load_weights(out)
    backbone = CavMae(**weights.settings | {"mask_ratio": 0.5})
    run = Run(scenario=Noise(), backbone=backbone, strategies=[], folder=tmp_path / "run", weights=weights)
    assert torch.equal(run.backbone.norm.weight, CavMae.from_pretrained(out).norm.weight)


@pytest.mark.parametrize(
    ("out", "more", "text"),
    [
        ("out.pt", SETS, "--out: invalid value '{out}': must end in .safetensors"),
        ("out.safetensors", ["--kind", "mea"], "--kind: invalid value 'mea': must be mae, cav-mae or stella"),
        (
            "x.safetensors",
            ["--set", "height=32"],
            "{mae}: heads cannot be detected for a width of 48: give --set heads=N",
        ),
        ("file/x.safetensors", SETS, "{out.parent}: a file is where a folder must be; choose another place"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, mae, out, more, text):
    (tmp_path / "file").touch()
    out = tmp_path / out
    result = command("import", mae, "--out", out, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"avcl: {text.format(out=out, mae=mae)}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
