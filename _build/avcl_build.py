"""Builds avcl: setuptools' own backend, which asks for torch only where the native ops can be compiled.

``AVCL_BUILD_EXT`` and ``AVCL_BUILD_CUDA`` are ``auto`` (build what can be built; say in one line what is missing),
``1`` (what is missing is an error) or ``0`` (do not build). ``AVCL_SANITIZE=address,undefined`` is for tests.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403

TORCH = "torch>=2.11,<2.15"
TARGET = "0x020b000000000000"  # libraries run on torch 2.11 and every later one
ARCHITECTURES = "8.0;9.0+PTX"
MODES = ("auto", "1", "0")
COMPILES_NOTHING = {"sdist", "egg_info", "dist_info"}
"""Commands for which torch need not be there."""


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    """What the isolated environment needs."""
    return requirements()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    """What the isolated environment needs."""
    return requirements()


def get_requires_for_build_sdist(config_settings=None) -> list[str]:
    """What the isolated environment needs."""
    return []


def requirements() -> list[str]:
    """Nothing where nothing is compiled; torch unless the environment that avcl is installed into has it."""
    if mode("AVCL_BUILD_EXT") == "0" or not compiler():
        return []
    return ["ninja"] if installed_torch() else [TORCH, "ninja"]


def mode(name: str) -> str:
    """A switch of the build."""
    value = os.environ.get(name, "auto")
    if value not in MODES:
        raise SystemExit(f"avcl: {name}: invalid value {value!r}: must be one of {', '.join(MODES)}")
    return value


def say(line: str) -> None:
    """One line about what is missing; pip shows it with -v."""
    sys.stderr.write(f"avcl: {line}\n")


def compiler() -> str | None:
    """The C++ compiler."""
    return shutil.which((os.environ.get("CXX") or "c++").split()[0])


def installed_torch() -> Path | None:
    """Where torch is found although the build is isolated: beside the pip that builds."""
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        version = Path(place) / "torch" / "version.py"
        if version.exists():
            spec = importlib.util.spec_from_file_location("_torch_version", version)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            if tuple(int(part) for part in module.__version__.split("+")[0].split(".")[:2]) >= (2, 11):
                return Path(place)
    return None


def find_cuda() -> None:
    """Set CUDA_HOME to where nvcc really is; torch reads it once and would guess it from a wrapper's place."""
    nvcc = shutil.which("nvcc")
    if nvcc and not (os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")):
        # it tells where it would take its parts from
        said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
        for line in said.splitlines():
            if line.startswith("#$ TOP="):
                os.environ["CUDA_HOME"] = os.path.realpath(line.removeprefix("#$ TOP="))


def native(sources: str, package: str) -> dict:
    """What ``setup()`` needs to build ``package._C`` from ``sources/cpu`` and ``package._C_cuda`` from ``/cuda``."""
    wanted, cuda = mode("AVCL_BUILD_EXT"), mode("AVCL_BUILD_CUDA")
    if COMPILES_NOTHING.intersection(sys.argv):
        return {}
    if wanted == "0":
        say("AVCL_BUILD_EXT=0: the ops will run in PyTorch")
        return {}
    try:
        if not compiler():
            raise RuntimeError(f"no C++ compiler called {os.environ.get('CXX') or 'c++'}")
        find_cuda()
        if importlib.util.find_spec("torch") is None and (place := installed_torch()):
            sys.path.append(str(place))
        import torch
        from torch.utils import cpp_extension
    except Exception as error:
        return missing(wanted, "native ops", error, {})
    extensions = [cpp_extension.CppExtension(f"{package}._C", found(sources, "cpu/*.cpp"), **flags())]
    if cuda != "0":
        try:
            if torch.version.cuda is None:
                raise RuntimeError(f"torch {torch.__version__} is built without CUDA")
            if cpp_extension.CUDA_HOME is None:
                raise RuntimeError("no nvcc")
            os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
            made = cpp_extension.CUDAExtension(f"{package}._C_cuda", found(sources, "cuda/*.cu"), **flags())
            extensions.append(made)
        except Exception as error:
            missing(cuda, "CUDA ops", error, None)

    class Build(cpp_extension.BuildExtension):
        """Builds each library by itself: what fails is missing, and takes nothing else with it."""

        def build_extensions(self) -> None:
            wishes, built = list(self.extensions), []
            for extension in wishes:
                what, strict = ("CUDA ops", cuda) if extension.name.endswith("_cuda") else ("native ops", wanted)
                self.extensions = [extension]
                try:
                    super().build_extensions()
                    built.append(extension)
                except Exception as error:
                    missing(strict, what, error, None)
            self.extensions = built

    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


def missing(wanted: str, what: str, error: Exception, otherwise):
    """Fail where it was asked for, else go on with ``otherwise``."""
    reason = " ".join(str(error).split()) or type(error).__name__
    line = f"without {what} (they will run in PyTorch): {reason[:300]}"
    if wanted == "1":
        raise SystemExit(f"avcl: {line}") from error
    say(line)
    return otherwise


def found(folder: str, pattern: str) -> list[str]:
    """Sources, relative to setup.py as setuptools wants them."""
    return sorted(path.as_posix() for path in Path(folder).glob(pattern))


def flags() -> dict:
    """How both libraries are compiled. Draws are the same on every machine because nothing is contracted."""
    sanitize = os.environ.get("AVCL_SANITIZE")
    speed = ["-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitize}"] if sanitize else ["-O3", "-g0"]
    common = [*speed, f"-DTORCH_TARGET_VERSION={TARGET}"]
    return {
        "py_limited_api": True,
        "extra_compile_args": {
            "cxx": [*common, "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi"],
            "nvcc": ["-O3", "-lineinfo", f"-DTORCH_TARGET_VERSION={TARGET}", "-DUSE_CUDA"],
        },
        "extra_link_args": [f"-fsanitize={sanitize}"] if sanitize else [],
    }
