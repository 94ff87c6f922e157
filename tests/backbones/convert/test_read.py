"""Files that others wrote: their tensors are read, and nothing that they name is run."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from avcl.backbones.convert.read import read_checkpoint
from avcl.errors import UserError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


@pytest.mark.parametrize("kind", ["state.pth", "old.pth", "whole.pth", "state.safetensors"])
def test_tensors_are_read_from_pth_and_safetensors(tmp_path, kind):
    path = tmp_path / kind
    if kind == "state.safetensors":
        save_file(STATE, path)
    else:
        content = {"model": STATE, "epoch": 3} if kind == "whole.pth" else STATE
        torch.save(content, path, _use_new_zipfile_serialization=kind != "old.pth")
    read, beside = read_checkpoint(path)
    assert beside == (("epoch",) if kind == "whole.pth" else ())
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def touch(path):
    path.touch()


class Traced:
    """Leaves a trace where it is unpickled, in one of the ways that a pickle has to run code."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (touch, (self.trace,))


class Restored(Traced):
    """As above, on the road of objects with a state."""

    __reduce__ = object.__reduce__

    def __setstate__(self, state):
        state["trace"].touch()


@pytest.mark.parametrize("kind", [Traced, Restored])
def test_nothing_that_a_file_names_is_run(tmp_path, kind):
    trace = tmp_path / "trace"
    torch.save({"model": STATE, "sampler": kind(trace), "age": np.zeros(3)}, tmp_path / "whole.pth")
    read, beside = read_checkpoint(tmp_path / "whole.pth")
    assert (list(read), beside) == (list(STATE), ("sampler", "age"))
    assert torch.equal(read["a.bias"], STATE["a.bias"])
    assert not trace.exists()
    torch.load(tmp_path / "whole.pth", weights_only=False)
    assert trace.exists()  # it would have been


class System:
    def __reduce__(self):
        return (os.system, ("true",))


def refused(path):
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    return str(error.value).removeprefix(f"{path}: ")


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            {"model": {}, "sampler": System()},
            "cannot be read without running code that it names; if you trust it, save its state dict alone: "
            "torch.save(torch.load(path, weights_only=False)['model'], 'model.pth')",
        ),
        ([1, 2], "holds a list, not names and tensors of a model"),
        (System, "holds a type, not names and tensors of a model"),
        *(
            ({"state_dict": odd}, "holds a dict, not names and tensors of a model")
            for odd in (
                {"a": 1},
                {},
                {1: torch.ones(1)},
                {"a": torch.ones(2, 2).to_sparse()},
                {"a": torch.ones(1, device="meta")},
            )
        ),
    ],
)
def test_content_that_is_no_state_dict(tmp_path, content, text):
    torch.save(content, tmp_path / "x.pth")
    assert refused(tmp_path / "x.pth") == text


def test_corrupt_files(tmp_path):
    path = tmp_path / "x.pth"
    assert refused(path) == "no such file"
    torch.save(STATE | {"b": torch.ones(2000)}, path)
    for content in (path.read_bytes()[:5000], b"hello", b""):
        path.write_bytes(content)
        assert refused(path).startswith("corrupt, or not a file of torch.save (")
