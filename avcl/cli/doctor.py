"""What runs on this machine, and why: versions, CUDA, decoders, plugins, and what plugins report."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from avcl.cli.plugins import table_of
from avcl.registry import Registry
from avcl.utils.console import write

PACKAGES = ("avcl", "torch", "torchvision", "torchaudio", "avalanche-lib", "timm", "av", "numpy")
DECODERS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "vorbis")
"""Codecs of nearly all clips in the field."""


def show(registry: Registry) -> None:
    """Print the report."""
    table = table_of("what", "state")
    for what, state in report(registry):
        table.add_row(what, state)
    write(table)


def report(registry: Registry) -> Iterator[tuple[str, str]]:
    """Every line: what, and its state."""
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in PACKAGES:
        yield package, _installed(package)
    yield "CUDA", _cuda()
    yield "threads", _threads()
    yield "decoders", _decoders()
    for plugin in registry.plugins:
        yield f"plugin {plugin.name}", f"broken: {plugin.error}" if plugin.error else str(plugin)
    yield from registry.doctor()


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "none: this torch is built without it"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda} in torch, but no device that it can use"
    names = (torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    return f"{torch.version.cuda}: {', '.join(names)}"


def _threads() -> str:
    import torch

    return str(torch.get_num_threads())


def _decoders() -> str:
    try:
        import av
    except ImportError as error:
        return f"none: {error}"
    numbers = ".".join(map(str, av.library_versions["libavcodec"]))
    missing = [name for name in DECODERS if name not in av.codecs_available]
    return f"libavcodec {numbers}: " + (f"no {', '.join(missing)}" if missing else ", ".join(DECODERS))
