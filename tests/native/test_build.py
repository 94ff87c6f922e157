"""The build: what is missing ends in one line and a working install, and in failure where it was asked for."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
SOURCES, PACKAGE = "plugins/stella/ops/csrc", "avcl.plugins.stella.ops"


@pytest.fixture
def build(monkeypatch):
    """The build's own module, with no switch set."""
    for name in ("AVCL_BUILD_EXT", "AVCL_BUILD_CUDA", "AVCL_SANITIZE", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("avcl_build", ROOT / "_build" / "avcl_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(made):
    return [extension.name.rpartition(".")[2] for extension in made.get("ext_modules", [])]


# ---- what is asked for ----
def test_torch_is_asked_for_only_where_something_is_compiled(build, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "compiler", lambda: "c++")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert build.requirements() == ["torch>=2.11,<2.15", "ninja"]
    monkeypatch.setattr(build, "compiler", lambda: None)
    assert build.requirements() == []
    monkeypatch.setattr(build, "compiler", lambda: "c++")
    monkeypatch.setenv("AVCL_BUILD_EXT", "0")
    assert build.requirements() == []


@pytest.mark.parametrize("command", ["sdist", "egg_info", "dist_info"])
def test_what_compiles_nothing_needs_no_torch(build, monkeypatch, command):
    """pip asks before it installs what the answer names: then a strict build must not fail yet."""
    monkeypatch.setenv("AVCL_BUILD_EXT", "1")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["setup.py", command])
    assert build.native(SOURCES, PACKAGE) == {}
    monkeypatch.setattr(build, "compiler", lambda: "c++")
    monkeypatch.setattr(build, "installed_torch", lambda: None)
    assert build.TORCH in build.get_requires_for_build_editable()
    assert build.TORCH in build.get_requires_for_build_wheel()
    assert build.get_requires_for_build_sdist() == []


@pytest.mark.parametrize(("version", "usable"), [("2.14.1+cu130", True), ("2.11.0", True), ("2.10.2", False)])
def test_a_torch_that_is_there_is_not_downloaded_again(build, monkeypatch, tmp_path, version, usable):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = {version!r}\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert f'"{build.TORCH}"' in (ROOT / "pyproject.toml").read_text()
    assert build.installed_torch() == (tmp_path if usable else None)


def test_cuda_is_looked_for_where_nvcc_really_is(build, monkeypatch, tmp_path):
    real = tmp_path / "cuda-13.0"
    real.mkdir()
    wrapper = tmp_path / "nvcc"
    wrapper.write_text(f"#!/bin/sh\necho '#$ TOP={real}/bin/..' >&2\n")
    wrapper.chmod(0o755)
    (real / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "")  # and, unlike delenv, set it back
    build.find_cuda()
    assert os.environ["CUDA_HOME"] == str(real)
    monkeypatch.setenv("CUDA_HOME", "/given")
    build.find_cuda()
    assert os.environ["CUDA_HOME"] == "/given"


# ---- what is missing ----
def without_compiler(build, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    return "AVCL_BUILD_EXT", "without native ops (they will run in PyTorch): no C++ compiler called no-such-compiler"


def without_torch(build, monkeypatch):
    monkeypatch.setattr(build, "compiler", lambda: "c++")
    monkeypatch.setattr(build, "installed_torch", lambda: None)
    monkeypatch.setitem(sys.modules, "torch", None)
    return "AVCL_BUILD_EXT", "without native ops (they will run in PyTorch): "


def without_nvcc(build, monkeypatch):
    monkeypatch.setattr(build, "compiler", lambda: "c++")
    monkeypatch.setattr(build, "find_cuda", lambda: None)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return "AVCL_BUILD_CUDA", "without CUDA ops (they will run in PyTorch): no nvcc"


def without_cuda(build, monkeypatch):
    monkeypatch.setattr(build, "compiler", lambda: "c++")
    monkeypatch.setattr(torch.version, "cuda", None)
    return "AVCL_BUILD_CUDA", f"CUDA ops (they will run in PyTorch): torch {torch.__version__} is built without CUDA"


@pytest.mark.parametrize("plant", [without_compiler, without_torch, without_nvcc, without_cuda])
def test_what_is_missing_is_one_line_and_an_error_where_it_was_asked_for(build, monkeypatch, capsys, plant):
    switch, said = plant(build, monkeypatch)
    made = build.native(SOURCES, PACKAGE)
    assert names(made) == ([] if switch == "AVCL_BUILD_EXT" else ["_C"])
    line = capsys.readouterr().err
    assert line.startswith("avcl: ") and said in line and line.count("\n") == 1
    monkeypatch.setenv(switch, "1")
    with pytest.raises(SystemExit) as caught:
        build.native(SOURCES, PACKAGE)
    assert said in str(caught.value)


def test_switches(build, monkeypatch, capsys):
    monkeypatch.setenv("AVCL_BUILD_EXT", "0")
    assert build.native(SOURCES, PACKAGE) == {}
    assert capsys.readouterr().err == "avcl: AVCL_BUILD_EXT=0: the ops will run in PyTorch\n"
    monkeypatch.setenv("AVCL_BUILD_EXT", "yes")
    with pytest.raises(SystemExit, match="AVCL_BUILD_EXT: invalid value 'yes': must be one of auto, 1, 0"):
        build.native(SOURCES, PACKAGE)


# ---- real builds ----
@pytest.fixture
def clone(tmp_path):
    """What git has, without what was built."""
    clone = tmp_path / "clone"
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "weights")
    for folder in ("avcl", "plugins", "scenarios", "examples", "_build"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=ignore)
    for file in ROOT.glob("[!.]*"):
        if file.is_file():
            shutil.copy(file, clone)
    return clone


def run(clone, *command, **environment):
    everything = {**os.environ, "AVCL_BUILD_CUDA": "0", **environment}
    return subprocess.run([sys.executable, *command], cwd=clone, env=everything, capture_output=True, text=True)


def built(clone):
    return sorted(path.name.partition(".")[0] for path in (clone / "plugins").rglob("*.so"))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


IN_PLACE = ("setup.py", "build_ext", "--inplace")
BACKEND = "import sys; sys.path.insert(0, '_build'); import avcl_build as b; b.{}(sys.argv[1])"


def test_a_compiler_that_fails_leaves_a_working_install(clone, tmp_path):
    broken = str(script(tmp_path / "broken-compiler", "echo 'no space left' >&2; exit 1"))
    done = run(clone, *IN_PLACE, CXX=broken)
    assert done.returncode == 0, done.stderr
    assert "avcl: without native ops (they will run in PyTorch): " in done.stderr
    assert built(clone) == []
    assert run(clone, *IN_PLACE, CXX=broken, AVCL_BUILD_EXT="1").returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
class TestCompiling:
    """Minutes, not seconds."""

    @pytest.mark.parametrize(("release", "ends"), [(f"{torch.version.cuda}, V1", "exit 1"), ("11.8, V11.8.89", "")])
    def test_a_cuda_compiler_that_fails_or_is_another_takes_nothing_else_with_it(self, clone, tmp_path, release, ends):
        (tmp_path / "bin").mkdir()
        script(tmp_path / "bin" / "nvcc", f"echo 'Cuda compilation tools, release {release}'; {ends}")
        switches = {"CUDA_HOME": str(tmp_path), "AVCL_BUILD_CUDA": "auto", "AVCL_BUILD_EXT": "1"}
        done = run(clone, *IN_PLACE, **switches)
        assert done.returncode == 0, done.stderr
        assert "avcl: without CUDA ops (they will run in PyTorch): " in done.stderr
        assert ends or "11.8" in done.stderr
        assert built(clone) == ["_C"]
        assert run(clone, *IN_PLACE, **(switches | {"AVCL_BUILD_CUDA": "1"})).returncode != 0

    def test_without_ninja(self, clone, tmp_path):
        tools = tmp_path / "tools"
        tools.mkdir()
        for folder in os.environ["PATH"].split(":"):
            for tool in Path(folder).glob("*") if Path(folder).is_dir() else ():
                if tool.name != "ninja" and not (tools / tool.name).is_symlink():
                    (tools / tool.name).symlink_to(tool)
        done = run(clone, *IN_PLACE, PATH=str(tools), AVCL_BUILD_EXT="1")
        assert done.returncode == 0, done.stderr
        assert built(clone) == ["_C"]

    def test_sdist_and_the_wheel_made_of_it_carry_what_they_need(self, clone, tmp_path):
        done = run(clone, "-c", BACKEND.format("build_sdist"), str(tmp_path))
        assert done.returncode == 0, done.stderr
        (sdist,) = tmp_path.glob("avcl-*.tar.gz")
        with tarfile.open(sdist) as archive:
            archive.extractall(tmp_path, filter="data")
        unpacked = sdist.with_name(sdist.name.removesuffix(".tar.gz"))
        sources = [path.relative_to(ROOT) for path in (ROOT / SOURCES).rglob("*.*")]
        assert all((unpacked / path).exists() for path in sources) and not [*unpacked.rglob("emulator")]
        done = run(unpacked, "-c", BACKEND.format("build_wheel"), str(tmp_path), AVCL_BUILD_EXT="1")
        assert done.returncode == 0, done.stderr
        (wheel,) = tmp_path.glob("avcl-*.whl")
        assert "-cp311-abi3-" in wheel.name
        held = zipfile.ZipFile(wheel).namelist()
        assert {"avcl/plugins/stella/ops/_C.abi3.so", "avcl/py.typed", "avcl/examples/run.yaml"} <= {*held}
        assert (unpacked / "LICENSE").exists() and any(name.endswith("licenses/LICENSE") for name in held)
        assert not [name for name in held if name.endswith((".cpp", ".cuh"))]

    def test_a_wheel_without_native_ops_is_for_every_machine(self, clone, tmp_path):
        assert run(clone, "-c", BACKEND.format("build_wheel"), str(tmp_path), AVCL_BUILD_EXT="0").returncode == 0
        assert [path.name.split("-", 2)[2] for path in tmp_path.glob("*.whl")] == ["py3-none-any.whl"]
