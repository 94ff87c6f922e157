"""What the ops are asked wrong, and what they say: the argument, its value, what is allowed."""

import math
import re

import pytest
import torch
from helpers.draw_cases import attention, weights

from avcl.plugins.stella.ops import selection
from avcl.plugins.stella.ops.philox import Use

QUERY, KEY = attention(2, 3, 5, 7, 8)
POOLED, TOP = QUERY[:, :, 0], torch.tensor([[0, 3, 5], [6, 1, 2]])
WEIGHT = weights("zeros", 2, 8)
DRAW = {"seed": 0, "index": torch.tensor([7, 2**40])}
WEIGHTS = {"importance": WEIGHT, "pruned": WEIGHT > 0.6, "keep": 3, **DRAW}
ASKED = {
    "importance": {"query": QUERY, "key": KEY, "scale": 0.3, "temperature": 1.0},
    "leading": {"importance": WEIGHT, "keep": 3},
    "pooled_query": {"query": KEY, "importance": weights("any", 2, 7), "top": TOP},
    "correlation": {"key": KEY, "past": POOLED, "now": POOLED, "top": TOP, "scale": 0.3},
    "prune": {"correlation": WEIGHT, "use": Use.VIDEO, **DRAW},
    "sample": {**WEIGHTS, "use": Use.VIDEO},
    "select_chunks": {**WEIGHTS, "chunk": 2, "cut": "tail"},
    "select_audio": {**WEIGHTS, "freqs": 2, "chunk": 2, "along": "frequency"},
}
TENSORS = [(op, name) for op, asked in ASKED.items() for name, x in asked.items() if isinstance(x, torch.Tensor)]


def asked(op, **instead):
    return getattr(selection, op)(**{**ASKED[op], **instead})


def spread(x):
    return torch.stack([x, x], dim=-1)[..., 0]


@pytest.mark.parametrize("op", ASKED)
def test_what_is_asked_right_is_answered(op):
    assert asked(op).numel() > 0


@pytest.mark.parametrize(("op", "name"), TENSORS)
class TestEveryTensor:
    """Of every op, with one thing wrong at a time."""

    def test_of_a_wrong_shape(self, op, name):
        tensor = ASKED[op][name]
        with pytest.raises(ValueError, match=rf"\b{name} {re.escape(str((1, *tensor.shape)))}.*: invalid shape: must"):
            asked(op, **{name: tensor[None]})

    def test_of_a_wrong_type(self, op, name):
        to = torch.int64 if ASKED[op][name].is_floating_point() else torch.float32
        with pytest.raises(TypeError, match=rf"^{name}: invalid type {to}: must be "):
            asked(op, **{name: ASKED[op][name].to(to)})
        with pytest.raises(TypeError, match=f"^{name}: invalid type list: must be a tensor"):
            asked(op, **{name: ASKED[op][name].tolist()})

    def test_on_another_device(self, op, name):
        first, *others = [other for other in ASKED[op] if (op, other) in TENSORS]
        if not others:
            pytest.skip("there is no other tensor")
        text = (
            f"invalid device cpu: must be meta, as {first}" if name == first else f"{name}: invalid device meta: must"
        )
        with pytest.raises(ValueError, match=text):
            asked(op, **{name: ASKED[op][name].to("meta")})

    def test_that_is_empty(self, op, name):
        empty = ASKED[op][name][..., :0]
        with pytest.raises(ValueError, match=rf"\b{name} {re.escape(str(tuple(empty.shape)))}.*: invalid shape: must"):
            asked(op, **{name: empty})

    def test_whose_numbers_lie_apart(self, op, name):
        tensor = spread(ASKED[op][name])
        text = rf"^{name}: invalid strides {re.escape(str(tensor.stride()))}: the last must be 1; call .contiguous\(\)"
        with pytest.raises(ValueError, match=text):
            asked(op, **{name: tensor})
        asked(op, **{name: tensor.contiguous()})


@pytest.mark.parametrize("op", ASKED)
def test_no_clips_at_all(op):
    """As in a process that has none of a batch: nothing is found, in the form of what would be."""
    nothing = {name: x[:0] for name, x in ASKED[op].items() if isinstance(x, torch.Tensor)}
    some, none = asked(op), asked(op, **nothing)
    assert (none.shape, none.dtype) == ((0, *some.shape[1:]), some.dtype)


NAN = WEIGHT * math.nan


@pytest.mark.parametrize(
    ("op", "instead", "text"),
    [
        ("importance", {"scale": math.nan}, "scale: invalid value nan: must be finite"),
        ("importance", {"temperature": 0.0}, "temperature: invalid value 0.0: must be finite and greater than 0"),
        ("importance", {"temperature": math.inf}, "temperature: invalid value inf: must be finite and greater than 0"),
        ("importance", {"temperature": math.nan}, "temperature: invalid value nan: must be"),
        ("importance", {"temperature": 1e-300}, "temperature: invalid value 1e-300: must not be so small that scale"),
        ("leading", {"keep": 9}, r"keep: invalid value 9: must be in \[0, 8\]"),
        ("leading", {"importance": NAN}, "importance: invalid value nan: must be a number"),
        ("pooled_query", {"top": TOP + 1}, r"top: invalid value 7: must be in \[0, 7\)"),
        ("correlation", {"top": TOP - 1}, r"top: invalid value -1: must be in \[0, 7\)"),
        ("correlation", {"past": POOLED[..., :4]}, r"past \(2, 3, 4\).*: invalid shape: must be \(B, H, L, d\), "),
        ("prune", {"correlation": WEIGHT + 1}, r"correlation: invalid value 1\.\d+: must be a probability in \[0, 1\]"),
        ("prune", {"correlation": NAN}, "correlation: invalid value nan: must be a probability"),
        ("prune", {"use": 9}, "use: invalid value 9: must be one of Use.PRUNE_VIDEO, "),
        ("prune", {"seed": 2**63}, "seed: invalid value 9223372036854775808: must fit into 64 bits"),
        ("sample", {"importance": WEIGHT - 2}, "importance: invalid value -[12].*: must be finite and not negative"),
        ("sample", {"importance": NAN}, "importance: invalid value nan: must be finite"),
        ("sample", {"keep": -1}, "keep: invalid value -1: must be in"),
        ("sample", {"use": 77}, "use: invalid value 77: must be one of"),
        ("select_chunks", {"importance": WEIGHT / 0}, "importance: invalid value (inf|nan): must be finite"),
        ("select_chunks", {"chunk": 3}, "chunk: invalid value 3: must be a divisor of 8 patches"),
        ("select_chunks", {"chunk": 0}, "chunk: invalid value 0: must be a divisor"),
        ("select_chunks", {"cut": "head"}, "cut: invalid value 'head': must be one of neighbours, tail"),
        ("select_audio", {"freqs": 3}, "freqs: invalid value 3: must be a divisor of 8 patches"),
        ("select_audio", {"along": "pitch"}, "along: invalid value 'pitch': must be one of time, frequency, uncon"),
        ("importance", {"key": KEY.double()}, "key: invalid type torch.float64: must be that of query, torch.float32"),
        ("importance", {"scale": "a"}, "scale: invalid type str: must be a number"),
        ("sample", {"keep": 3.0}, "keep: invalid type float: must be a whole number"),
        ("sample", {"keep": True}, "keep: invalid type bool: must be a whole number"),
        ("sample", {"importance": WEIGHT.to(torch.float8_e5m2)}, "invalid type torch.float8_e5m2: must be a float"),
        ("prune", {"seed": torch.tensor(5)}, "seed: invalid type Tensor: must be a whole number"),
        ("select_chunks", {"chunk": 2.0}, "chunk: invalid type float: must be a whole number"),
    ],
)
def test_wrong_values_and_types(op, instead, text):
    with pytest.raises(TypeError if "invalid type" in text else ValueError, match=text):
        asked(op, **instead)


def test_rows_and_heads_may_lie_apart():
    """As they come out of a model, or of one row that stands for many."""
    assert not QUERY.is_contiguous()
    assert torch.equal(asked("importance"), asked("importance", query=QUERY.contiguous(), key=KEY.contiguous()))
    row, none = weights("any", 1, 8).expand(2, -1), torch.zeros(1, 8, dtype=torch.bool).expand(2, -1)
    chosen = asked("sample", importance=row, pruned=none)
    assert torch.equal(chosen, asked("sample", importance=row.contiguous(), pruned=none.contiguous()))
    top = asked("leading", importance=row)
    assert top.stride() == (8, 1)
    pooled = asked("pooled_query", query=QUERY[:1].expand(2, -1, -1, -1), importance=row[:, :5], top=top % 5)
    assert torch.equal(pooled[0], pooled[1])
