"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer: clean, and a planted fault is caught."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.draw_cases import COMPILER, CSRC, compile_library, kernels

from avcl.plugins.stella.ops import native

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not COMPILER, reason="no C++ compiler")]

FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


USABLE = [name for name in native.INSTRUCTIONS if kernels(name)] or ["generic"]
kernels("")


def watched(library: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run everything the library can do; the sanitizers' own libraries have to be there before Python is."""
    named = (f"-print-file-name=lib{name}.so" for name in ("asan", "ubsan"))
    preload = [subprocess.run([COMPILER, name], capture_output=True, text=True).stdout.strip() for name in named]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "OMP_NUM_THREADS": "2",
    }
    script = Path(__file__).parents[1] / "helpers" / "sanitized.py"
    command = [sys.executable, str(script), str(library), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_memory_and_arithmetic_are_clean(tmp_path):
    library = compile_library(sorted((CSRC / "cpu").glob("*.cpp")), tmp_path / "watched.so", *FLAGS)
    for name in USABLE:
        clean(watched(library, "avcl", name))


def test_memory_and_arithmetic_of_the_cuda_source_are_clean(tmp_path):
    library = compile_library([CSRC / "emulation" / "ops.cpp"], tmp_path / "watched.so", *FLAGS)
    clean(watched(library, "avcl_emulated"))


def clean(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("calls\n") and "runtime error" not in done.stderr


@pytest.mark.parametrize(
    ("part", "file", "right", "wrong"),
    [
        ("generic", "cpu/kernel.h", "= (padded(keys, panel) *", "= (keys *"),
        ("amx", "cpu/tiles.h", "kParts * deep * (kStrip + pitch)", "kParts * deep * (kStrip + keys)"),
        ("amx", "cpu/tiles.h", "right(key + 2 * apart)", "right(key + 3 * apart)"),
        ("emulation", "cuda/attention.cuh", "AVCL_SHARED(Acc[kTile], parts);", "AVCL_SHARED(Acc[kTile - 1], parts);"),
    ],
)
def test_a_planted_fault_is_caught(tmp_path, part, file, right, wrong):
    """Memory for the keys without their padding; tiles beyond the last key; too little shared memory."""
    if part not in (*USABLE, "emulation"):
        pytest.skip(f"this processor has no {part}")
    sources = tmp_path / "csrc"
    shutil.copytree(CSRC, sources)
    text = (sources / file).read_text()
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong))
    folder = "emulation" if part == "emulation" else "cpu"
    library = compile_library(sorted((sources / folder).glob("*.cpp")), tmp_path / "watched.so", *FLAGS)
    done = watched(library, *(["avcl_emulated"] if part == "emulation" else ["avcl", part]))
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr or "runtime error: index" in done.stderr
