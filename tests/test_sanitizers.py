"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer: clean, and a planted fault is caught."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from draw_cases import COMPILER, CSRC, compile_library

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not COMPILER, reason="no C++ compiler")]

FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def watched(library: Path, namespace: str) -> subprocess.CompletedProcess:
    """Run everything the library can do; the sanitizers' own libraries have to be there before Python is."""
    named = (f"-print-file-name=lib{name}.so" for name in ("asan", "ubsan"))
    preload = [subprocess.run([COMPILER, name], capture_output=True, text=True).stdout.strip() for name in named]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "OMP_NUM_THREADS": "2",
    }
    script = Path(__file__).parent / "sanitized.py"
    command = [sys.executable, str(script), str(library), namespace]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("part", "namespace"), [("cpu", "avcl"), ("emulation", "avcl_emulated")])
def test_memory_and_arithmetic_are_clean(tmp_path, part, namespace):
    library = compile_library(sorted((CSRC / part).glob("*.cpp")), tmp_path / "watched.so", *FLAGS)
    done = watched(library, namespace)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("calls\n") and "runtime error" not in done.stderr


@pytest.mark.parametrize(
    ("part", "file", "right", "wrong"),
    [
        ("cpu", "cpu/kernel.h", "return (padded(keys, panel) *", "return (keys *"),
        ("emulation", "cuda/attention.cuh", "AVCL_SHARED(Acc[kTile], parts);", "AVCL_SHARED(Acc[kTile - 1], parts);"),
    ],
)
def test_a_planted_fault_is_caught(tmp_path, part, file, right, wrong):
    """Memory for the keys without their padding; shared memory that is one number too short."""
    sources = tmp_path / "csrc"
    shutil.copytree(CSRC, sources)
    text = (sources / file).read_text()
    assert right in text
    (sources / file).write_text(text.replace(right, wrong))
    library = compile_library(sorted((sources / part).glob("*.cpp")), tmp_path / "watched.so", *FLAGS)
    done = watched(library, "avcl" if part == "cpu" else "avcl_emulated")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr or "runtime error: index" in done.stderr
