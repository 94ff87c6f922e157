"""`avcl doctor`: every line is true, and a plugin has its say."""

import sys

import pytest
import torch
from typer.testing import CliRunner

from avcl.cli import doctor
from avcl.cli.main import app
from avcl.plugins.stella.ops import native
from avcl.registry import Registry, registry


def test_it_reports_versions_decoders_plugins_and_ops():
    lines = dict(doctor.report(registry()))
    assert lines["torch"] in (torch.__version__, torch.__version__.partition("+")[0])
    assert lines["plugin stella"].startswith("avcl.plugins.stella (avcl ")
    assert "h264" in lines["decoders"] and lines["decoders"].startswith("libavcodec ")
    for backend in native.backends():
        said = lines[f"{backend.op} on {backend.device}"]
        assert said.startswith("native" if backend.native else f"PyTorch: {backend.reason}")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert all(key in done.output for key in lines)


@pytest.mark.parametrize(
    ("built", "available", "expected"),
    [
        (None, False, "none: this torch is built without it"),
        ("13.0", False, "13.0 in torch, but no device that it can use"),
        ("13.0", True, "13.0: Card 0, Card 1"),
    ],
)
def test_cuda_is_what_torch_says(monkeypatch, built, available, expected):
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"Card {number}")
    assert dict(doctor.report(Registry([])))["CUDA"] == expected


def test_what_is_missing_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    monkeypatch.setitem(sys.modules, "av", None)
    lines = dict(doctor.report(Registry([])))
    assert lines["no-such-package"] == "not installed"
    assert lines["decoders"].startswith("none: ")
