"""The ops of the namespace ``avcl``: native against reference, whatever the sizes, threads, seeds and weights."""

import math
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.draw_cases import attention, exact_importance, kernels, seeds, selections, weights
from hypothesis import given, settings

from avcl.plugins.stella.ops import native, selection
from avcl.plugins.stella.ops.philox import Use
from avcl.plugins.stella.ops.reference import KERNELS
from avcl.plugins.stella.ops.selection import (
    correlation,
    importance,
    leading,
    pooled_query,
    prune,
    sample,
    select_audio,
)

OPS = torch.ops.avcl
NATIVE = {backend.op: backend for backend in native.backends() if backend.device == "CPU"}
needs_native = pytest.mark.skipif(not NATIVE["sample"].native, reason=NATIVE["sample"].reason)
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


@pytest.fixture(params=native.INSTRUCTIONS if NATIVE["importance"].native else ["the reference"])
def instructions(request):
    """The kernels of each instruction set in turn; in their absence what runs instead."""
    if NATIVE["importance"].native and not kernels(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    kernels("")


# ---- as torch wants its ops ----------------------------------------------------------------------------------


def test_schemas_are_those_that_python_says():
    assert tuple(str(getattr(OPS, op).default._schema) for op in CALLS) == tuple(
        f"avcl::{schema}" for schema in native.SCHEMAS
    )


@pytest.mark.parametrize("op", CALLS)
def test_opcheck(op, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch.library.opcheck(getattr(OPS, op).default, CALLS[op])


@pytest.mark.parametrize("op", ["importance", "correlation", "prune"])
def test_nothing_carries_a_gradient(op):
    first, *others = CALLS[op]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = getattr(OPS, op)(first.clone().requires_grad_(), *others)
    assert not found.requires_grad
    assert torch.equal(found, getattr(OPS, op)(*CALLS[op]))


@pytest.mark.parametrize("op", CALLS)
def test_fakes_tell_shape_and_type(op):
    on_meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in CALLS[op]]
    fake, real = getattr(OPS, op)(*on_meta), getattr(OPS, op)(*CALLS[op])
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


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


# ---- scores --------------------------------------------------------------------------------------------------


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
        ((2, 2, 20, 65, 24), torch.bfloat16, 1e-6),
        ((1, 17, 609, 70, 64), torch.bfloat16, 1e-6),
        ((2, 2, 20, 65, 24), torch.float16, 1e-6),
    ],
)
def test_importance_is_the_column_mean_of_the_softmax(instructions, shape, dtype, off):
    query, key = attention(*shape, dtype)
    found = OPS.importance(query, key, 0.2, 0.4)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    exact = exact_importance(query, key, 0.5)
    assert ((found - exact).abs() <= off * exact.max()).all()


def test_importance_is_the_same_for_any_number_of_threads_and_in_any_batch(instructions, threads):
    query, key = attention(5, 4, 600, 90, 16)
    alone = torch.cat([OPS.importance(query[i : i + 1], key[i : i + 1], 0.2, 0.4) for i in range(5)])
    for count in (1, 2, 3, 7):
        threads(count)
        assert torch.equal(OPS.importance(query, key, 0.2, 0.4), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("queries", "keys", "scale"),
    [
        (5e37, 1e-30, 1e-7),  # close to the largest
        (1e-40, 1e35, 1e5),  # denormals that count
        (1e-40, 1e-2, 1e30),
        (1e-19, 1e-19, 1e37),  # denormal products
        (2.0**36, 2.0**36, 2.0**-72),
        (2.0**39, 2.0**20, 2.0**-59),
        (1.0, 1.0, -0.5),
        (1.0, 1.0, 0.0),
        (1.0, 30.0, 10.0),  # one key takes it all
    ],
)
def test_importance_of_very_large_and_very_small_numbers(instructions, dtype, queries, keys, scale):
    query, key = attention(1, 2, 100, 70, 16, dtype)
    query, key = query * queries, key * keys
    exact = exact_importance(query, key, scale)
    found = OPS.importance(query, key, scale, 1.0)
    assert ((found - exact).abs() <= (1e-6 if abs(scale) < 1 or keys < 2 else 1e-4) * exact.max()).all()


def test_importance_of_one_strange_row_among_ordinary_ones(instructions):
    """Wherever it stands, among queries or keys, it does what it must, and to its own clip only."""
    plain_query, plain_key = attention(2, 2, 130, 70, 16)
    plain = OPS.importance(plain_query, plain_key, 0.5, 1.0)
    for row in (0, 31, 32, 64, 129):
        for number in (1e30, math.inf, math.nan):
            query = plain_query.clone()
            query[0, 1, row] *= number
            found, exact = OPS.importance(query, plain_key, 0.5, 1.0), exact_importance(query, plain_key, 0.5)
            assert torch.equal(found[1], plain[1])
            assert found[0].isnan().all() == (number != 1e30)
            if number == 1e30:
                torch.testing.assert_close(found[0].double(), exact[0], rtol=0, atol=1e-6)
    key = plain_key.clone()
    key[0, 0, 69] = math.nan
    found = OPS.importance(plain_query, key, 0.5, 1.0)
    assert found[0].isnan().all() and torch.equal(found[1], plain[1])


def test_torch_multiplies_as_before_beside_our_tiles(instructions):
    """Matrix tiles belong to a thread: what is set up in them for us must not stay."""
    query, key = attention(1, 2, 40, 33, 64, torch.bfloat16)
    left, right = torch.rand(70, 96).bfloat16(), torch.rand(96, 50).bfloat16()
    before, scores = left @ right, OPS.importance(query, key, 0.2, 0.4)
    for _ in range(3):
        assert torch.equal(OPS.importance(query, key, 0.2, 0.4), scores)
        assert torch.equal(left @ right, before)


@pytest.mark.parametrize("layout", ["contiguous", "heads apart", "columns apart", "expanded", "backwards"])
def test_scores_take_strided_tensors_as_they_are(layout):
    query, key = attention(2, 3, 20, 33, 8)
    expected = OPS.importance(query.contiguous(), key.contiguous(), 0.3, 1.0)
    if layout == "contiguous":
        query, key = query.contiguous(), key.contiguous()
    elif layout == "columns apart":
        query, key = (x.mT.contiguous().mT for x in (query, key))
    elif layout == "expanded":
        query, key = query[:1].expand(2, -1, -1, -1), key[:1].expand(2, -1, -1, -1)
        expected = expected[:1].expand(2, -1)
    elif layout == "backwards":
        query, key = torch.cat([query, query])[2:], torch.stack([key, key], dim=-1)[..., 1]
    assert torch.equal(OPS.importance(query, key, 0.3, 1.0), expected)
    past, now, top = query[:, :, 0], query[:, :, 1], TOP.repeat(1, 2)[:, ::2]
    to = (past, now, top, 0.3, 1.0)
    assert torch.equal(OPS.correlation(key, *to), OPS.correlation(key.contiguous(), *(x for x in to)))


def test_scores_of_infinity_and_nan(instructions):
    """Minus infinity takes no share, plus infinity and NaN spoil their clip and no other."""
    query, key = attention(3, 1, 3, 70, 2)
    query = query.abs() + 0.1
    key[0, :, 5], key[1, :, 66], key[2, :, 7, 1] = -math.inf, math.nan, math.inf
    found, expected = OPS.importance(query, key, 1.0, 1.0), exact_importance(query, key, 1.0)
    assert found[0, 5] == 0 and not found[0].isnan().any()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0, equal_nan=True)
    assert OPS.correlation(key, query[:, :, 0], query[:, :, 1], torch.tensor([[66]] * 3), 1.0, 1.0)[1, 66].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_correlation_equals_the_reference(instructions, dtype):
    key, query = attention(3, 5, 40, 2, 24, dtype)
    past, now = (x.float() for x in query.unbind(2))
    top = torch.rand(3, 40).argsort(1)[:, :17]
    found = OPS.correlation(key, 30 * past, now, top, 0.3, 0.5)
    exact = KERNELS["correlation"](key.double(), 30 * past, now, top, 0.3, 0.5)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-13 if dtype == torch.float64 else 5e-6)
    assert ((found >= 0) & (found <= 1)).all()


# ---- draws ---------------------------------------------------------------------------------------------------


@needs_native
@often
@given(case=selections())
def test_chunks_are_those_of_the_reference(case):
    assert torch.equal(OPS.select_chunks(*case), KERNELS["select_chunks"](*case))


@needs_native
@often
@given(case=selections())
def test_samples_are_those_of_the_reference(case):
    importance, pruned, keep, _, _, seed, index = case
    to = (importance, pruned, keep, seed, Use.VIDEO, index)
    assert torch.equal(OPS.sample(*to), KERNELS["sample"](*to))


@needs_native
@often
@given(seed=seeds)
def test_pruning_is_that_of_the_reference(seed):
    chance = weights("any", 3, 300)
    chance[:, :3] = torch.tensor([0, 1, 2.0**-32])
    to = (chance, seed, Use.PRUNE_AUDIO, torch.tensor([-1, 2**62, 0]))
    assert torch.equal(OPS.prune(*to), KERNELS["prune"](*to))


def test_none_and_all_can_be_kept():
    none = torch.zeros(2, 8, dtype=torch.bool)
    for keep in (0, 8):
        for chosen in (
            selection.leading(WEIGHT, keep),
            sample(WEIGHT, none, keep, use=Use.VIDEO, seed=1, index=INDEX),
            selection.select_chunks(WEIGHT, none, keep, 4, seed=1, index=INDEX),
            select_audio(WEIGHT, none, keep, freqs=2, chunk=2, along="frequency", seed=1, index=INDEX),
            KERNELS["sample"](WEIGHT, none, keep, 1, Use.VIDEO, INDEX),
            KERNELS["select_chunks"](WEIGHT, none, keep, 4, "tail", 1, INDEX),
        ):
            assert chosen.sort(1).values.tolist() == 2 * [list(range(keep))]


@needs_native
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_draws_from_other_types_are_those_of_the_reference(dtype):
    weight = weights("any", 4, 60).to(dtype)
    pruned, index = weights("any", 60, 4).T < 0.3, torch.arange(8)[::2]
    for op, to in (
        ("prune", (weight, 5, 1, index)),
        ("sample", (weight, pruned, 20, 5, 2, index)),
        ("select_chunks", (weight, pruned, 20, 5, "tail", 5, index)),
    ):
        assert torch.equal(getattr(OPS, op)(*to), KERNELS[op](*to))


def test_draws_are_the_same_for_any_number_of_threads(threads):
    weight, index = weights("any", 9, 64), torch.arange(9)
    pruned = OPS.prune(weight, 5, 0, index)
    once = OPS.sample(weight, pruned, 30, 5, 2, index), OPS.select_chunks(weight, pruned, 30, 4, "tail", 5, index)
    for count in (2, 5):
        threads(count)
        assert torch.equal(OPS.prune(weight, 5, 0, index), pruned)
        again = OPS.sample(weight, pruned, 30, 5, 2, index), OPS.select_chunks(weight, pruned, 30, 4, "tail", 5, index)
        assert all(map(torch.equal, once, again))


ROWS = 200_000


def test_inclusion_has_the_frequencies_of_multinomial():
    weight = torch.tensor([0.05, 0.3, 0.1, 0.25, 0.1, 0.2])
    none = torch.zeros(ROWS, 6, dtype=torch.bool)
    chosen = selection.sample(weight.expand(ROWS, -1), none, 3, seed=5, use=Use.VIDEO, index=torch.arange(ROWS))
    drawn = torch.multinomial(weight.expand(ROWS, -1), 3, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.bincount(x.flatten(), minlength=6) / ROWS for x in (chosen, drawn))
    p = (ours + theirs) / 2
    assert ((ours - theirs).abs() <= 4 * (2 * p * (1 - p) / ROWS).sqrt()).all()


def test_pruning_has_the_frequencies_of_bernoulli():
    p = torch.tensor([0.001, 0.1, 0.5, 0.9])
    pruned = selection.prune(p.expand(ROWS, -1), seed=3, use=Use.PRUNE_VIDEO, index=torch.arange(ROWS))
    drawn = torch.bernoulli(p.expand(ROWS, -1), generator=torch.Generator().manual_seed(1))
    assert ((pruned.double().mean(0) - drawn.double().mean(0)).abs() <= 4 * (2 * p * (1 - p) / ROWS).sqrt()).all()


# ---- mistakes ------------------------------------------------------------------------------------------------

TO = {"seed": 0, "index": INDEX}
POOLED, VIDEO = QUERY[:, :, 0], Use.VIDEO
WEIGHTS = {"importance": WEIGHT, "pruned": PRUNED, "keep": 3, **TO}
ASKED = {
    "importance": {"query": QUERY, "key": KEY, "scale": 0.3},
    "leading": {"importance": WEIGHT, "keep": 3},
    "pooled_query": {"query": KEY, "importance": weights("any", 2, 7), "top": TOP},
    "correlation": {"key": KEY, "past": POOLED, "now": POOLED, "top": TOP, "scale": 0.3},
    "prune": {"correlation": WEIGHT, "use": VIDEO, **TO},
    "sample": {**WEIGHTS, "use": VIDEO},
    "select_chunks": {**WEIGHTS, "chunk": 2},
    "select_audio": {**WEIGHTS, "freqs": 2, "chunk": 2, "along": "frequency"},
}
TENSORS = [(op, name) for op, asked in ASKED.items() for name, x in asked.items() if isinstance(x, torch.Tensor)]


def with_one_wrong(op, name, change):
    getattr(selection, op)(**{**ASKED[op], name: change(ASKED[op][name])})


def spread(x):
    return torch.stack([x, x], dim=-1)[..., 0]


@pytest.mark.parametrize("op", ASKED)
def test_what_is_asked_right_is_answered(op):
    assert getattr(selection, op)(**ASKED[op]).numel() > 0


@pytest.mark.parametrize(("op", "name"), TENSORS)
class TestEveryTensor:
    """Of every op, with one thing wrong at a time: the text has the argument's name, its value, what is allowed."""

    def test_of_a_wrong_shape(self, op, name):
        shape = re.escape(str((1, *ASKED[op][name].shape)))
        with pytest.raises(ValueError, match=rf"\b{name}\b.* {shape}"):
            with_one_wrong(op, name, lambda x: x[None])

    def test_of_a_wrong_type(self, op, name):
        to = torch.int64 if ASKED[op][name].is_floating_point() else torch.float32
        with pytest.raises(TypeError, match=rf"{name}: a .* is needed, not {to}"):
            with_one_wrong(op, name, lambda x: x.to(to))
        with pytest.raises(TypeError, match=f"{name}: a tensor is needed, not list"):
            with_one_wrong(op, name, lambda x: x.tolist())

    def test_on_another_device(self, op, name):
        others = [other for other in ASKED[op] if (op, other) in TENSORS]
        if len(others) == 1:
            pytest.skip("there is no other tensor")
        with pytest.raises(ValueError, match=rf"\b{name}\b.* on (meta.*cpu|cpu.*meta)|{others[0]} on meta; one device"):
            with_one_wrong(op, name, lambda x: x.to("meta"))

    def test_that_is_empty(self, op, name):
        empty = ASKED[op][name][..., :0]
        with pytest.raises(ValueError, match=rf"\b{name}\b.* {re.escape(str(tuple(empty.shape)))}"):
            with_one_wrong(op, name, lambda _: empty)

    def test_whose_numbers_lie_apart(self, op, name):
        strides = re.escape(str(spread(ASKED[op][name]).stride()))
        text = rf"{name}: strides {strides} are not allowed; the last must be 1: call .contiguous\(\) on it"
        with pytest.raises(ValueError, match=text):
            with_one_wrong(op, name, spread)
        with_one_wrong(op, name, lambda x: spread(x).contiguous())


@pytest.mark.parametrize("op", ASKED)
def test_no_clips_at_all(op):
    nothing = {name: x[:0] if isinstance(x, torch.Tensor) else x for name, x in ASKED[op].items()}
    with pytest.raises(ValueError, match=rf"{next(iter(nothing))}: shape \(0, .* is empty; at least one along each"):
        getattr(selection, op)(**nothing)


def test_rows_and_heads_may_lie_apart():
    """As they come out of a model, or of one row that stands for many."""
    queries = QUERY.transpose(1, 2).contiguous().transpose(1, 2)
    assert not queries.is_contiguous()
    assert torch.equal(importance(queries, KEY, 0.3), importance(QUERY.contiguous(), KEY.contiguous(), 0.3))
    row, none = weights("any", 1, 8).expand(2, -1), torch.zeros(1, 8, dtype=torch.bool).expand(2, -1)
    chosen = sample(row, none, 3, use=VIDEO, **TO)
    assert torch.equal(chosen, sample(row.contiguous(), none.contiguous(), 3, use=VIDEO, **TO))
    top = leading(row, 3)
    assert top.stride() == (8, 1)
    pooled = pooled_query(QUERY[:1].expand(2, -1, -1, -1), row[:, :5], top % 5)
    assert torch.equal(pooled[0], pooled[1])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: importance(QUERY, KEY.double(), 1.0), TypeError, "key: torch.float64 differs .*32"),
        (lambda: importance(QUERY[..., :0], KEY[..., :0], 1.0), ValueError, r"query: .* 0\) is empty"),
        (lambda: importance(QUERY, KEY[:, :, :0], 1.0), ValueError, r"key: shape \(2, 3, 0, 8\) is empty"),
        (lambda: importance(QUERY, KEY, 1.0, math.nan), ValueError, "temperature: nan is not allowed"),
        (lambda: leading(WEIGHT, 9), ValueError, "keep: 9 of 8 patches is not possible; allowed: 0 to all"),
        (lambda: pooled_query(KEY, WEIGHT[:, :7].contiguous(), TOP + 1), ValueError, r"top: 7 is not .* in \[0, 7\)"),
        (lambda: correlation(KEY, POOLED, POOLED, TOP + 5, 1.0), ValueError, "top: 8 is not"),
        (lambda: correlation(KEY, POOLED, POOLED, TOP - 1, 1.0), ValueError, r"top: -1 .* 7"),
        (lambda: correlation(KEY, POOLED, POOLED, TOP[0], 1.0), ValueError, r"top: shape \(3"),
        (lambda: prune(WEIGHT, use=VIDEO, seed=2**63, index=INDEX), ValueError, "seed: 9223372036854775808"),
        (lambda: sample(WEIGHT[:, :0], PRUNED[:, :0], 3, use=VIDEO, **TO), ValueError, "is empty"),
        (
            lambda: select_audio(WEIGHT, PRUNED, 3, freqs=3, chunk=1, **TO),
            ValueError,
            "freqs: 3 does not divide 8 patches",
        ),
    ],
)
def test_mistakes_say_what_is_wrong(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    ("op", "at", "instead"),
    [
        ("importance", 0, QUERY[..., :4]),
        ("importance", 1, KEY[0]),
        ("correlation", 3, TOP + 5),
        ("correlation", 3, TOP - 1),
        ("correlation", 1, QUERY),
        ("prune", 3, INDEX[:1]),
        ("prune", 0, INDEX[None]),
        ("sample", 1, PRUNED[:, :4]),
        ("sample", 2, 9),
        ("sample", 2, -1),
        ("select_chunks", 3, 3),
        ("select_chunks", 3, 0),
        ("select_chunks", 6, INDEX.float()),
    ],
)
@needs_native
def test_native_ops_never_read_what_is_not_there(op, at, instead):
    """Called past the checks of Python, they still refuse what would run over the end of a tensor."""
    with pytest.raises((RuntimeError, IndexError)):
        getattr(OPS, op)(*CALLS[op][:at], instead, *CALLS[op][at + 1 :])


# ---- what runs -----------------------------------------------------------------------------------------------


def test_the_suite_runs_what_it_was_told_to():
    mode = os.environ.get("AVCL_OPS", "auto")
    if mode != "auto":
        assert all(backend.native == (mode == "native") for backend in NATIVE.values())
    assert all(backend.native == (not backend.reason) for backend in native.backends())


@needs_native
def test_the_kernels_are_the_best_that_this_processor_has():
    usable = [name for name in native.INSTRUCTIONS if kernels(name)]
    assert usable[0] == "generic" and kernels("sse9") is None and native.instructions() == usable[-1]
    assert kernels("generic") == native.instructions() == "generic"
    assert ("importance on CPU", "native, generic kernels") in native.lines()
    assert kernels("") == native.instructions() == usable[-1]


def test_libraries_that_cannot_be_used_say_why(tmp_path):
    assert native.obstacle("CPU", "reference") == "AVCL_OPS=reference"
    assert native.obstacle("CPU", "auto", tmp_path) == "_C was not built; to see why: AVCL_BUILD_EXT=1 pip install -v"
    (tmp_path / "_C.abi3.so").write_bytes(b"\0importance(Tensor query) -> Tensor\0")
    assert native.obstacle("CPU", "auto", tmp_path) == "_C.abi3.so is of another version of avcl; reinstall avcl"
    (tmp_path / "_C.abi3.so").write_bytes("\0".join(native.SCHEMAS).encode())
    assert native.obstacle("CPU", "auto", tmp_path) == ""
    with pytest.raises(ValueError, match="AVCL_OPS: 'fast' is not known; allowed: auto, native, reference"):
        native._load("fast")


def test_a_missing_library_is_an_error_where_native_is_asked_for(monkeypatch):
    monkeypatch.setattr(native, "find", lambda *_: None)
    with pytest.raises(ImportError, match="AVCL_OPS=native, but _C was not built"):
        native._load("native")
    assert native._load("auto")["CPU"].startswith("_C was not built")


def test_the_reference_runs_under_the_same_names():
    """In a process of its own: which one runs is settled when the ops are registered."""
    code = (
        "import torch; from avcl.plugins.stella.ops import native\n"
        "assert not any(backend.native for backend in native.backends())\n"
        "assert all(state == 'PyTorch: AVCL_OPS=reference' for _, state in native.lines())\n"
        "w, none, index = torch.ones(1, 8), torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1).long()\n"
        "print(torch.ops.avcl.sample(w.requires_grad_(), none, 4, -3, 2, index).tolist())\n"
    )
    environment = {**os.environ, "AVCL_OPS": "reference", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    none, index = torch.zeros(1, 8, dtype=torch.bool), torch.zeros(1).long()
    assert done.stdout.strip() == str(OPS.sample(torch.ones(1, 8), none, 4, -3, 2, index).tolist())
