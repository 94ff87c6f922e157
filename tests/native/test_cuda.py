"""The CUDA source against the reference: on a GPU where there is one, and run on the CPU by an emulator of blocks,
threads and barriers.
"""

import functools

import pytest
import torch
from helpers.draw_cases import (
    COMPILER,
    CSRC,
    EMULATOR,
    assert_drawn_as_by_the_reference,
    assert_exact_importance,
    assert_strange_keys_spoil_their_clip,
    attention,
    compile_library,
    exact_importance,
    selections,
)
from helpers.sanitized import load
from hypothesis import HealthCheck, given, settings

quickly = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("emulator", marks=needs_compiler),
        pytest.param("device", marks=[pytest.mark.gpu, needs_device]),
    ],
)
def cuda(request, tmp_path_factory):
    """``cuda(op, *arguments)`` of the CPU, whatever runs it."""
    if request.param == "emulator":
        library = tmp_path_factory.mktemp("emulator") / "emulator.so"
        ops, device = load(compile_library([EMULATOR / "ops.cpp"], library, "-O1"), "avcl_emulated"), "cpu"
    else:
        ops, device = torch.ops.avcl, "cuda"
    return lambda op, *to: getattr(ops, op)(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in to)).cpu()


@pytest.mark.parametrize(
    ("shape", "dtype", "off"),
    [
        ((1, 1, 1, 1, 1), torch.float32, 1e-6),
        ((2, 3, 70, 131, 24), torch.float32, 1e-6),
        ((1, 2, 129, 64, 128), torch.float32, 2e-6),
        ((1, 2, 20, 200, 40), torch.float64, 1e-14),
        ((1, 2, 70, 131, 24), torch.bfloat16, 1e-6),
        ((1, 2, 65, 66, 128), torch.bfloat16, 2e-6),
        ((1, 2, 70, 40, 65), torch.float16, 1e-6),
    ],
)
def test_importance_is_the_column_mean_of_the_softmax(cuda, shape, dtype, off):
    assert_exact_importance(functools.partial(cuda, "importance"), shape, dtype, off)


def test_scores_of_infinity_and_nan(cuda):
    assert_strange_keys_spoil_their_clip(functools.partial(cuda, "importance"))


@quickly
@given(case=selections())
def test_draws_are_those_of_the_reference(cuda, case):
    assert_drawn_as_by_the_reference(cuda, case)


@needs_compiler
def test_a_missing_barrier_and_unwritten_shared_memory_are_seen(tmp_path):
    """What these tests are worth: the same source without its barriers gives something else."""
    source = (EMULATOR / "ops.cpp").read_text().replace("avcl_emulated", "avcl_broken")
    (tmp_path / "broken.cpp").write_text(source)
    header = (EMULATOR / "cuda.h").read_text()
    assert header.count("{ emulation::pause(); }") == 1
    (tmp_path / "cuda.h").write_text(header.replace("{ emulation::pause(); }", "{}"))
    library = compile_library([tmp_path / "broken.cpp"], tmp_path / "broken.so", "-O1", csrc=CSRC)
    query, key = attention(1, 2, 70, 131, 24)
    off = load(library, "avcl_broken").importance(query, key, 0.2, 0.4) - exact_importance(query, key, 0.5)
    assert not (off.abs() < 1e-3).all()
