"""The CUDA source against the reference: on a GPU where there is one, and run on the CPU by an emulator of blocks,
threads and barriers.
"""

import pytest
import torch
from helpers.draw_cases import COMPILER, CSRC, EMULATOR, attention, compile_library, exact_importance, selections
from helpers.sanitized import load
from hypothesis import HealthCheck, given, settings

from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import OPS

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
    query, key = attention(*shape, dtype)
    found = cuda("importance", query, key, 0.2, 0.4)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    exact = exact_importance(query, key, 0.5)
    assert ((found - exact).abs() <= off * exact.max()).all()


def test_scores_of_infinity_and_nan(cuda):
    """Minus infinity takes no share, plus infinity and NaN spoil their clip and no other."""
    query, key = attention(3, 1, 3, 70, 2)
    query = query.abs() + 0.1
    key[0, :, 5], key[1, :, 66], key[2, :, 7, 1] = -torch.inf, torch.nan, torch.inf
    found, expected = cuda("importance", query, key, 1.0, 1.0), exact_importance(query, key, 1.0)
    assert found[0, 5] == 0 and not found[0].isnan().any()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0, equal_nan=True)


@quickly
@given(case=selections())
def test_draws_are_those_of_the_reference(cuda, case):
    importance, pruned, keep, _, _, seed, index = case
    sampled = (importance, pruned, keep, seed, Use.VIDEO, index)
    assert torch.equal(cuda("select_chunks", *case), OPS["select_chunks"].kernel(*case))
    assert torch.equal(cuda("sample", *sampled), OPS["sample"].kernel(*sampled))


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
