"""The CUDA source, run on the CPU by an emulation of blocks, threads and barriers, against the reference."""

import pytest
import torch
from helpers.draw_cases import COMPILER, CSRC, attention, compile_library, exact_importance, seeds, selections, weights
from hypothesis import HealthCheck, given, settings

from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import KERNELS

pytestmark = pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
quickly = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    """The CUDA ops for tensors of the CPU."""
    library = tmp_path_factory.mktemp("emulation") / "emulation.so"
    torch.ops.load_library(compile_library([CSRC / "emulation" / "ops.cpp"], library, "-O1"))
    return torch.ops.avcl_emulated


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
    found = cuda.importance(query, key, 0.2, 0.4)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    exact = exact_importance(query, key, 0.5)
    assert ((found - exact).abs() <= off * exact.max()).all()


def test_scores_of_infinity_and_nan(cuda):
    """Minus infinity takes no share, plus infinity and NaN spoil their clip and no other."""
    query, key = attention(3, 1, 3, 70, 2)
    query = query.abs() + 0.1
    key[0, :, 5], key[1, :, 66], key[2, :, 7, 1] = -torch.inf, torch.nan, torch.inf
    found, expected = cuda.importance(query, key, 1.0, 1.0), exact_importance(query, key, 1.0)
    assert found[0, 5] == 0 and not found[0].isnan().any()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_correlation_equals_the_reference(cuda, dtype):
    key, query = attention(3, 5, 40, 2, 24, dtype)
    past, now = query.unbind(2)
    top = torch.rand(3, 40).argsort(1)[:, :17]
    found = cuda.correlation(key, past.float(), now, top, 0.3, 0.5)
    expected = KERNELS["correlation"](key, past.float(), now, top, 0.3, 0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7)
    assert (found > 0).sum(1).tolist() == [17] * 3


@quickly
@given(case=selections())
def test_chunks_are_those_of_the_reference(cuda, case):
    assert torch.equal(cuda.select_chunks(*case), KERNELS["select_chunks"](*case))


@quickly
@given(case=selections())
def test_samples_are_those_of_the_reference(cuda, case):
    importance, pruned, keep, _, _, seed, index = case
    to = (importance, pruned, keep, seed, Use.VIDEO, index)
    assert torch.equal(cuda.sample(*to), KERNELS["sample"](*to))


@quickly
@given(seed=seeds)
def test_pruning_is_that_of_the_reference(cuda, seed):
    to = (weights("any", 3, 300), seed, Use.PRUNE_AUDIO, torch.tensor([-1, 2**62, 0]))
    assert torch.equal(cuda.prune(*to), KERNELS["prune"](*to))


def test_a_length_that_no_number_of_chunks_has_is_refused(cuda):
    index, none = torch.arange(2), torch.zeros(2, 8, dtype=torch.bool)
    for ops in (cuda.select_chunks, torch.ops.avcl.select_chunks, KERNELS["select_chunks"]):
        with pytest.raises(RuntimeError):
            ops(weights("any", 2, 8), none, 4, 3, "tail", 5, index)


def test_a_missing_barrier_and_unwritten_shared_memory_are_seen(cuda, tmp_path):
    """What these tests are worth: the same source without its barriers gives something else."""
    source = (CSRC / "emulation" / "ops.cpp").read_text()
    source = source.replace("avcl_emulated", "avcl_broken").replace('"../', f'"{CSRC}/').replace("cuda.h", "broken.h")
    (tmp_path / "broken.cpp").write_text(source)
    header = (CSRC / "emulation" / "cuda.h").read_text()
    (tmp_path / "broken.h").write_text(header.replace("{ emulation::pause(); }", "{}"))
    torch.ops.load_library(compile_library([tmp_path / "broken.cpp"], tmp_path / "broken.so", "-O1"))
    query, key = attention(1, 2, 70, 131, 24)
    off = torch.ops.avcl_broken.importance(query, key, 0.2, 0.4) - exact_importance(query, key, 0.5)
    assert not (off.abs() < 1e-3).all()
