"""The native code under AddressSanitizer and UndefinedBehaviorSanitizer: clean, and a planted fault is caught."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.draw_cases import COMPILER, CSRC, EMULATOR, USABLE, compile_library

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not COMPILER, reason="no C++ compiler")]

FLAGS = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def watched(folder: Path, csrc: Path, *parts: str) -> subprocess.CompletedProcess:
    """Run all that the CUDA source (``emulator``) or the CPU's kernels can do."""
    emulated = "emulator" in parts
    sources = [EMULATOR / "ops.cpp"] if emulated else sorted((csrc / "cpu").glob("*.cpp"))
    library = folder / "watched.so"
    if not library.exists():
        compile_library(sources, library, *FLAGS, csrc=csrc)
    # the sanitizers' own libraries have to be there before Python is
    named = (f"-print-file-name=lib{name}.so" for name in ("asan", "ubsan"))
    preload = [subprocess.run([COMPILER, name], capture_output=True, text=True).stdout.strip() for name in named]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "OMP_NUM_THREADS": "2",
    }
    script = Path(__file__).parents[1] / "helpers" / "sanitized.py"
    arguments = ["avcl_emulated"] if emulated else ["avcl", *parts]
    command = [sys.executable, str(script), str(library), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("parts", [USABLE or ["generic"], ["emulator"]], ids=["cpu", "cuda source"])
def test_memory_and_arithmetic_are_clean(tmp_path, parts):
    for part in parts:
        done = watched(tmp_path, CSRC, part)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.endswith("calls\n") and "runtime error" not in done.stderr


@pytest.mark.parametrize(
    ("part", "file", "right", "wrong"),
    [
        ("generic", "cpu/kernel.h", "(padded(question.key.length, kPanel<T>) *", "(question.key.length *"),
        ("generic", "cpu/draws.h", "order.resize(patches + 1)", "order.resize(patches)"),
        ("emulator", "cuda/attention.cuh", "AVCL_SHARED(Acc[kTile], parts);", "AVCL_SHARED(Acc[kTile - 1], parts);"),
    ],
)
def test_a_planted_fault_is_caught(tmp_path, part, file, right, wrong):
    """Memory for the keys without their padding; no place behind the last patch; too little shared memory."""
    sources = tmp_path / "csrc"
    shutil.copytree(CSRC, sources)
    text = (sources / file).read_text()
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong))
    done = watched(tmp_path, sources, part)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr or "runtime error: index" in done.stderr
