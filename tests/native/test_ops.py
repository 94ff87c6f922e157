"""The ops of the namespace ``avcl``: native against reference, whatever the sizes, threads, seeds and weights."""

import math
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.draw_cases import (
    CSRC,
    USABLE,
    assert_drawn_as_by_the_reference,
    assert_exact_importance,
    assert_strange_keys_spoil_their_clip,
    attention,
    exact_importance,
    kernels,
    selections,
    weights,
)
from hypothesis import given, settings

from avcl.plugins.stella.ops import native, selection
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import OPS

AVCL = torch.ops.avcl
RUNS = {backend.op: backend for backend in native.backends() if backend.device == "CPU"}
needs_native = pytest.mark.skipif(not RUNS["sample"].native, reason=RUNS["sample"].reason)
often = settings(max_examples=150, deadline=None, derandomize=True)

QUERY, KEY = attention(2, 3, 5, 7, 8)
TOP = torch.tensor([[0, 3, 5], [6, 1, 2]])
WEIGHT = weights("zeros", 2, 8)
PRUNED = torch.rand(2, 8, generator=torch.Generator().manual_seed(1)) < 0.3
INDEX = torch.tensor([7, 2**40])
CALLS = {
    "importance": (QUERY, KEY, 0.3, 0.5),
    "correlation": (KEY, QUERY[:, :, 0], QUERY[:, :, 1], TOP, 0.3, 0.5),
    "prune": (WEIGHT, 5, 1, INDEX),
    "sample": (WEIGHT, PRUNED, 3, 5, 2, INDEX),
    "select_chunks": (WEIGHT, PRUNED, 3, 2, "neighbours", 5, INDEX),
}


@pytest.fixture
def threads():
    """Set the number of threads, and set it back."""
    yield torch.set_num_threads
    torch.set_num_threads(1)


@pytest.fixture(params=USABLE or ["the reference"])
def instructions(request):
    """The kernels of each instruction set in turn; in their absence what runs instead."""
    if USABLE:
        kernels(request.param)
    yield request.param
    if USABLE:
        kernels("")


# ---- as torch wants its ops ----
def test_the_libraries_state_what_python_has():
    stated = re.findall(r'OP\((\w+),\W+("[^"]*")', (CSRC / "ops.h").read_text())
    schemas = [name + schema.strip('"') for name, schema in stated]
    assert "\n".join(["avcl ops:", *schemas, ""]) == native.STATEMENT
    assert CALLS.keys() == OPS.keys()


@pytest.mark.parametrize("op", CALLS)
def test_opcheck(op, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch.library.opcheck(getattr(AVCL, op).default, CALLS[op])


@pytest.mark.parametrize("op", CALLS)
def test_nothing_carries_a_gradient_or_heeds_autocast(op):
    first, *others = CALLS[op]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = getattr(AVCL, op)(first.clone().requires_grad_(), *others)
    assert not found.requires_grad
    assert torch.equal(found, getattr(AVCL, op)(*CALLS[op]))


def test_a_step_compiles_once_for_all_seeds(monkeypatch):
    """Scores and draws in one graph; a new seed must not compile anew, a new batch size once."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    def step(query, key, past, seed, index):
        importance = selection.importance(query, key, 0.3, 0.4)
        top = selection.leading(importance, 8)
        now = selection.pooled_query(key, importance, top)
        correlation = selection.correlation(key, past, now, top, 0.3)
        pruned = selection.prune(correlation, seed=seed, use=Use.PRUNE_AUDIO, index=index)
        chunks = selection.select_audio(importance, pruned, 8, freqs=2, chunk=2, seed=seed, index=index)
        return chunks, selection.sample(importance, pruned, 8, seed=seed, use=Use.VIDEO, index=index)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for clips, seed in [(3, 1), (3, 2**62), (3, -5), (3, 11), (5, 12), (5, 13), (4, 14)]:
        query, key = attention(clips, 2, 6, 16, 4)
        to = (query, key, query[:, :, 0], seed, torch.arange(clips))
        for found, expected in zip(compiled(*to), step(*to), strict=True):
            assert torch.equal(found, expected)
    assert len(graphs) <= 4
    torch._dynamo.reset()


# ---- importance ----
@pytest.mark.parametrize(
    ("shape", "dtype", "off"),
    [
        ((1, 1, 1, 1, 1), torch.float32, 1e-6),
        ((2, 3, 13, 31, 5), torch.float32, 1e-6),
        ((1, 2, 265, 33, 64), torch.float32, 1e-6),
        ((1, 17, 300, 100, 128), torch.float32, 1e-6),
        ((1, 18, 330, 32, 33), torch.float32, 1e-6),
        ((1, 1, 7, 1000, 200), torch.float32, 4e-6),
        ((2, 2, 20, 65, 24), torch.float64, 1e-14),
        ((1, 17, 609, 70, 64), torch.bfloat16, 1e-6),
        ((2, 2, 20, 65, 24), torch.float16, 1e-6),
    ],
)
def test_importance_is_the_column_mean_of_the_softmax(instructions, shape, dtype, off):
    assert_exact_importance(AVCL.importance, shape, dtype, off)


def test_importance_is_the_same_for_any_number_of_threads_and_in_any_batch(instructions, threads):
    query, key = attention(5, 4, 600, 90, 16)
    alone = torch.cat([AVCL.importance(query[i : i + 1], key[i : i + 1], 0.2, 0.4) for i in range(5)])
    for count in (1, 2, 3, 7):
        threads(count)
        assert torch.equal(AVCL.importance(query, key, 0.2, 0.4), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("queries", "keys", "scale"),
    [
        (5e37, 1e-30, 1e-7),  # close to the largest
        (1e-40, 1e35, 1e5),  # denormals that count
        (1e-40, 1e-2, 1e30),
        (1e-19, 1e-19, 1e37),  # denormal products
        (2.0**36, 2.0**36, 2.0**-72),
        (1.0, 1.0, -0.5),
        (1.0, 1.0, 0.0),
        (1.0, 30.0, 10.0),  # one key takes it all
    ],
)
def test_importance_of_very_large_and_very_small_numbers(instructions, dtype, queries, keys, scale):
    query, key = attention(1, 2, 100, 70, 16, dtype)
    query, key = query * queries, key * keys
    exact = exact_importance(query, key, scale)
    found = AVCL.importance(query, key, scale, 1.0)
    assert ((found - exact).abs() <= (1e-6 if abs(scale) < 1 or keys < 2 else 1e-4) * exact.max()).all()


def test_importance_of_one_strange_row_among_ordinary_ones(instructions):
    """Wherever it stands, among queries or keys, it does what it must, and to its own clip only."""
    plain_query, plain_key = attention(2, 2, 130, 70, 16)
    plain = AVCL.importance(plain_query, plain_key, 0.5, 1.0)
    for row in (0, 31, 129):
        for number in (1e30, math.inf, math.nan):
            query = plain_query.clone()
            query[0, 1, row] *= number
            found, exact = AVCL.importance(query, plain_key, 0.5, 1.0), exact_importance(query, plain_key, 0.5)
            assert torch.equal(found[1], plain[1])
            assert found[0].isnan().all() == (number != 1e30)
            if number == 1e30:
                torch.testing.assert_close(found[0].double(), exact[0], rtol=0, atol=1e-6)


def test_importance_with_keys_of_infinity_and_nan(instructions):
    assert_strange_keys_spoil_their_clip(AVCL.importance)


@pytest.mark.parametrize("layout", ["contiguous", "columns apart", "expanded", "in the middle of others"])
def test_scores_take_strided_tensors_as_they_are(instructions, layout):
    query, key = attention(2, 3, 20, 33, 8)
    if layout == "contiguous":
        query, key = query.contiguous(), key.contiguous()
    elif layout == "columns apart":
        query, key = (x.mT.contiguous().mT for x in (query, key))
    elif layout == "expanded":
        query, key = query[:1].expand(2, -1, -1, -1), key[:1].expand(2, -1, -1, -1)
    else:
        query, key = torch.cat([query, query])[2:], torch.stack([key, key], dim=-1)[..., 1]
    expected = AVCL.importance(query.contiguous(), key.contiguous(), 0.3, 1.0)
    assert torch.equal(AVCL.importance(query, key, 0.3, 1.0), expected)
    past, now, top = query[:, :, 0], query[:, :, 1], TOP.repeat(1, 2)[:, ::2]
    to = (past, now, top, 0.3, 1.0)
    assert torch.equal(AVCL.correlation(key, *to), AVCL.correlation(key.contiguous(), *to))


# ---- draws ----
@needs_native
@often
@given(case=selections())
def test_draws_are_those_of_the_reference(case):
    assert_drawn_as_by_the_reference(lambda op, *to: getattr(AVCL, op)(*to), case)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_draws_from_other_types_are_those_of_the_reference(dtype):
    weight, pruned, index = weights("any", 4, 60).to(dtype), weights("any", 60, 4).T < 0.3, torch.arange(8)[::2]
    for op, to in (("sample", (5, 2, index)), ("select_chunks", (5, "tail", 5, index))):
        to = (weight, pruned, 20, *to)
        assert torch.equal(getattr(AVCL, op)(*to), OPS[op].kernel(*to))


def test_draws_are_the_same_for_any_number_of_threads(threads):
    weight, index = weights("any", 1000, 64), torch.arange(1000)
    pruned = AVCL.prune(weight, 5, 0, index)

    def draws():
        return (
            AVCL.prune(weight, 5, 0, index),
            AVCL.sample(weight, pruned, 30, 5, 2, index),
            AVCL.select_chunks(weight, pruned, 30, 4, "tail", 5, index),
        )

    once = draws()
    for count in (2, 5):
        threads(count)
        assert all(map(torch.equal, once, draws()))


# ---- called past the checks of Python ----
@pytest.mark.parametrize(
    ("op", "at", "instead"),
    [
        ("importance", 0, QUERY[..., :4]),
        ("importance", 1, KEY[0]),
        ("importance", 1, KEY.double()),
        ("sample", 0, WEIGHT[None]),
        ("sample", 1, PRUNED[:, :4]),
        ("sample", 1, PRUNED.long()),
        ("sample", 2, 9),
        ("sample", 2, -1),
        ("sample", 5, INDEX[:1]),
        ("select_chunks", 3, 3),
        ("select_chunks", 3, 0),
        ("select_chunks", 6, INDEX.float()),
    ],
)
@needs_native
def test_native_ops_never_read_what_is_not_there(op, at, instead):
    with pytest.raises(RuntimeError):
        getattr(AVCL, op)(*CALLS[op][:at], instead, *CALLS[op][at + 1 :])


# ---- what runs ----
def test_the_suite_runs_what_it_was_told_to():
    mode = os.environ.get("AVCL_OPS", "auto")
    for name, backend in RUNS.items():
        assert backend.native == (not backend.reason)
        if mode != "auto":
            assert backend.native == (mode == "native" and OPS[name].native)


@needs_native
def test_the_kernels_are_the_best_that_this_processor_has():
    assert USABLE[0] == "generic" and kernels("sse9") is None and native.instructions() == USABLE[-1]
    assert kernels("generic") == native.instructions() == "generic"
    assert dict(native.lines())["importance on CPU"] == "native, generic kernels"
    assert kernels("") == native.instructions() == USABLE[-1]


def test_libraries_that_cannot_be_used_say_why(tmp_path):
    assert native.obstacle("CPU", "reference") == "AVCL_OPS=reference"
    assert native.obstacle("CPU", "auto", tmp_path) == "_C was not built; to see why: AVCL_BUILD_EXT=1 pip install -v"
    assert native.load_libraries("auto", tmp_path)["CPU"].startswith("_C was not built")
    with pytest.raises(ImportError, match="AVCL_OPS=native, but _C was not built"):
        native.load_libraries("native", tmp_path)
    with pytest.raises(ValueError, match="AVCL_OPS: invalid value 'fast': must be one of auto, native, reference"):
        native.load_libraries("fast")
    another = "_C.abi3.so is of another version of avcl; reinstall avcl"
    for content, said in [
        (native.STATEMENT.replace("SymInt keep", "int keep"), another),
        (native.STATEMENT.partition("\nsample")[0], another),
        (native.STATEMENT, ""),
    ]:
        (tmp_path / "_C.abi3.so").write_bytes(b"\0" + content.encode() + b"\0")
        assert native.obstacle("CPU", "auto", tmp_path) == said
    assert native.load_libraries("auto", tmp_path)["CPU"].startswith("_C cannot be loaded: ")


def test_the_reference_runs_under_the_same_names():
    """In a process of its own: which one runs is settled when the ops are registered."""
    code = (
        "import torch; from avcl.plugins.stella.ops import native\n"
        "assert not any(backend.native for backend in native.backends())\n"
        "assert dict(native.lines())['sample on CPU'] == 'PyTorch: AVCL_OPS=reference'\n"
        "w, none, index = torch.ones(1, 8), torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1).long()\n"
        "print(torch.ops.avcl.sample(w.requires_grad_(), none, 4, -3, 2, index).tolist())\n"
    )
    environment = {**os.environ, "AVCL_OPS": "reference", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    none, index = torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1).long()
    assert done.stdout.strip() == str(AVCL.sample(torch.ones(1, 8), none, 4, -3, 2, index).tolist())
