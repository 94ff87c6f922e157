"""What the selection ops are asked, over the range of what they may be asked; and the libraries under test."""

import os
import shutil
import subprocess
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

from avcl.plugins.stella.ops import native
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import OPS

CSRC = native.FOLDER / "csrc"
EMULATOR = Path(__file__).parents[1] / "native" / "emulator"
COMPILER = shutil.which((os.environ.get("CXX") or "c++").split()[0])

shapes = st.tuples(st.integers(1, 4), st.integers(1, 90), st.integers(1, 12))  # clips, chunks, patches in each
seeds = st.integers(-(2**63), 2**63 - 1)
kinds = st.sampled_from(["any", "zeros", "all zero", "ties", "tiny", "huge", "denormal doubles", "infinite"])
shares = st.sampled_from([0.0, 0.3, 0.9, 1.0])


def weights(kind: str, clips: int, patches: int) -> Tensor:
    """Weights (clips, patches) of a kind that somebody may get wrong."""
    some = torch.rand(clips, patches, generator=torch.Generator().manual_seed(clips * patches))
    match kind:
        case "zeros":
            return some * (some > 0.5)
        case "all zero":
            return torch.zeros_like(some)
        case "ties":
            return (3 * some).floor()
        case "tiny":
            return some * 1e-42
        case "huge":
            return some * 3e38
        case "denormal doubles":
            return some.double() * 1e-310
        case "infinite":  # refused by Python
            return some.masked_fill(some > 0.7, torch.inf)
    return some


@st.composite
def selections(draw):
    """Arguments (importance, pruned, keep, chunk, cut, seed, index) of select_chunks."""
    clips, chunks, chunk = draw(shapes)
    patches = chunks * chunk
    importance = weights(draw(kinds), clips, patches)
    if draw(st.booleans()):
        importance = importance.T.contiguous().T
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    pruned = torch.rand(clips, patches, generator=generator) < draw(shares)
    index = torch.randint(-(2**62), 2**62, (clips,), generator=generator)
    keep = draw(st.one_of(st.integers(0, patches), st.sampled_from([0, 1, patches])))
    return importance, pruned, keep, chunk, draw(st.sampled_from(["neighbours", "tail"])), draw(seeds), index


def attention(clips: int, heads: int, rows: int, keys: int, depth: int, dtype: torch.dtype = torch.float32):
    """Queries (B, H, M, d) and keys (B, H, L, d) as they come out of a linear layer: rows of one head lie apart."""
    generator = torch.Generator().manual_seed(rows * keys + depth)
    query, key = (
        torch.randn(clips, length, heads, depth, generator=generator).to(dtype).transpose(1, 2)
        for length in (rows, keys)
    )
    return query, key


def exact_importance(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """By the definition, in float64, with the full map."""
    return (query.double() @ key.double().mT * scale).softmax(-1).mean((1, 2))


def assert_exact_importance(op, shape, dtype, off):
    """``op`` gives the column mean of the softmax, in single precision or better."""
    query, key = attention(*shape, dtype)
    found, exact = op(query, key, 0.2, 0.4), exact_importance(query, key, 0.5)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert ((found - exact).abs() <= off * exact.max()).all()


def assert_strange_keys_spoil_their_clip(op):
    """Minus infinity takes no share, plus infinity and NaN spoil their clip and no other."""
    query, key = attention(3, 1, 3, 70, 2)
    query = query.abs() + 0.1
    key[0, :, 5], key[1, :, 69], key[2, :, 7, 1] = -torch.inf, torch.nan, torch.inf
    found, expected = op(query, key, 1.0, 1.0), exact_importance(query, key, 1.0)
    assert found[0, 5] == 0 and not found[0].isnan().any()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0, equal_nan=True)


def assert_drawn_as_by_the_reference(ops, case):
    """``select_chunks`` and ``sample``, bit for bit."""
    importance, pruned, keep, _, _, seed, index = case
    sampled = (importance, pruned, keep, seed, Use.VIDEO, index)
    for op, to in (("select_chunks", case), ("sample", sampled)):
        assert torch.equal(ops(op, *to), OPS[op].kernel(*to))


def kernels(name: str) -> str | None:
    """Use the kernels of one instruction set from now on: its name, None where nothing native has it."""
    ours = any(backend.native for backend in native.backends() if backend.device == "CPU")
    return native.instructions(name) if ours else None


USABLE = [name for name in native.INSTRUCTIONS if kernels(name)]
"""The instruction sets that there are kernels for here; none where the reference runs."""
kernels("")


def compile_library(sources: list[Path], to: Path, *flags: str, csrc: Path = CSRC) -> Path:
    """Compile sources of ours against torch's stable headers, as the build does."""
    import torch.utils.cpp_extension as extension

    includes = [f"-I{csrc}", *(f"-isystem{path}" for path in extension.include_paths())]
    libraries = [f"-L{path}" for path in extension.library_paths()]
    common = ["-shared", "-fPIC", "-std=c++20", "-ffp-contract=off", "-Wno-psabi"]
    target = "-DTORCH_TARGET_VERSION=0x020b000000000000"
    command = [COMPILER, *common, target, *flags, *includes, *map(str, sources), "-o", str(to)]
    done = subprocess.run([*command, *libraries, "-ltorch_cpu", "-lc10"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return to
