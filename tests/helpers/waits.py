"""Where a step would wait for a GPU, told on a CPU: tensors carry a mark that says on which side they would lie.

The device goes by the name "cpu:0", the host by "cpu". On the device are weights, whatever ``.to(device)`` or
``device=`` put there, and all that is computed of it. Python waits where it looks at a number of theirs, asks for a
result whose size depends on the numbers, or copies to the host.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

HOST, DEVICE = torch.device("cpu"), torch.device("cpu", 0)
HOME = Path(__file__).parents[2]
LOOKS = ("item", "__bool__", "__int__", "__float__", "__index__", "tolist", "numpy", "__array__", "__contains__")
LOOKS += ("__format__", "__repr__", "equal", "allclose", "is_nonzero")
SIZED = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")


class Waits(TorchFunctionMode):
    """``waits``: how often, by ``file:line what``; ``copies``: of the host's tensors to the device, by the same."""

    def __init__(self):
        super().__init__()
        self.waits, self.copies = Counter(), Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = (resolve_name(func) or getattr(func, "__name__", str(func))).rpartition(".")[2]
        given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
        if func == torch.Tensor.device.__get__:
            return DEVICE if on_device(args[0]) else HOST
        there = any(map(on_device, given[:1] if name == "__deepcopy__" else given))
        result = func(*args, **kwargs)
        if name in ("to", "cpu", "cuda"):
            return self._moved(name, args, kwargs, result)
        if there and self._waits(name, args):
            self.waits[f"{place()} {name}"] += 1
        if there or kwargs.get("device") == DEVICE:
            mark(result)
        return result

    def _waits(self, name, args):
        if name in LOOKS or name in SIZED or (name == "where" and len(args) == 1):
            return True
        if name in ("__getitem__", "__setitem__"):  # by a mask, whose True it has to count; by a number
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            at = [part for part in parts if isinstance(part, Tensor) and on_device(part)]
            return any(part.dtype == torch.bool or not part.ndim for part in at)
        return name == "repeat_interleave" and isinstance(args[1], Tensor) and on_device(args[1])

    def _moved(self, name, args, kwargs, result):
        """To the device, to the host, or only to another type."""
        target = kwargs.get("device", next((part for part in args[1:] if isinstance(part, torch.device | str)), None))
        was = on_device(args[0])
        if name == "to" and target is None:
            return mark(result) if was else result
        result = result.view_as(result) if result is args[0] else result
        if name == "cpu" or torch.device(target) == HOST:
            if was:
                self.waits[f"{place()} {name}"] += 1
            return mark(result, False)
        if not was:
            self.copies[f"{place()} {name}"] += 1
        return mark(result)


def on_device(tensor):
    return getattr(tensor, "_on_device", False)


def mark(result, there=True):
    """The result, with the mark on all of its tensors."""
    for part in tree_leaves(result):
        if isinstance(part, Tensor):
            part._on_device = there
    return result


def place():
    """``file:line`` of the innermost frame that is the project's own."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HOME) and not path.is_relative_to(HOME / "tests"):
            return f"{path.relative_to(HOME)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@contextmanager
def counted_waits(learner):
    """Waits of what the learner does while it is entered; its weights lie on the device."""
    for module in (learner.backbone, *learner.modules()):
        mark([*module.parameters(), *module.buffers()])
    for state in learner.optimizer.state.values():
        mark([value for value in state.values() if isinstance(value, Tensor) and value.ndim])
    with Waits() as counted:
        yield counted
