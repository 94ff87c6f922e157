"""Checks of what the ops are asked: every error names the argument, its value and what is allowed.

Compiled functions skip the checks that look at values.
"""

import math

import torch
from torch import Tensor

from avcl.plugins.stella.ops.philox import Use

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_floats(**tensors: Tensor) -> None:
    """That all are floating-point tensors of a type that the ops know."""
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name}: invalid type {tensor.dtype}: must be a float of 16, 32 or 64 bits")


def check_integers(**tensors: Tensor) -> None:
    """That all are tensors of integers."""
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise TypeError(f"{name}: invalid type {tensor.dtype}: must be an integer type")


def check_shape(fits: bool, rule: str, **tensors: Tensor) -> None:
    """That shapes fit, else an error with all of them and the rule."""
    if not fits:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{shapes}: invalid shape: must be {rule}")


def check_layout(**tensors: Tensor) -> None:
    """That no clip is empty, all are on one device, and along the last axis numbers are neighbours.

    There may be no clip: a process has none of a batch that is smaller than the number of processes.
    """
    first, *_ = tensors
    for name, tensor in tensors.items():
        check_shape(0 not in tensor.shape[1:], "at least one along each axis but the first", **{name: tensor})
        if tensor.device != tensors[first].device:
            raise ValueError(f"{name}: invalid device {tensor.device}: must be {tensors[first].device}, as {first}")
        if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            raise ValueError(f"{name}: invalid strides {tensor.stride()}: the last must be 1; call .contiguous() on it")


def check_values(name: str, values: Tensor, least: float, most: float, rule: str) -> None:
    """That all values lie between two bounds, which excludes NaN."""
    if torch.compiler.is_compiling() or values.is_meta or not values.numel():
        return
    low, high = values.detach().aminmax()  # NaN is either's result
    if not (low >= least and high <= most):
        wrong = values[~((values >= least) & (values <= most))][0].item()
        raise ValueError(f"{name}: invalid value {wrong}: must be {rule}")


def check_whole(**numbers: int) -> None:
    """That all are whole numbers."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | torch.SymInt):
            raise TypeError(f"{name}: invalid type {type(number).__name__}: must be a whole number")


def check_divisor(name: str, number: int, patches: int) -> None:
    """That so many patches can be divided by the number."""
    check_whole(**{name: number})
    if number < 1 or patches % number:
        raise ValueError(f"{name}: invalid value {number}: must be a divisor of {patches} patches")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """That the value is one of those."""
    if value not in allowed:
        raise ValueError(f"{name}: invalid value {value!r}: must be one of {', '.join(allowed)}")


def check_temperature(scale: float, temperature: float) -> None:
    """That scores can be multiplied by scale / temperature."""
    for name, value in (("scale", scale), ("temperature", temperature)):
        if isinstance(value, bool) or not isinstance(value, int | float | torch.SymFloat):
            raise TypeError(f"{name}: invalid type {type(value).__name__}: must be a number")
    if torch.compiler.is_compiling():
        return
    if not math.isfinite(scale):
        raise ValueError(f"scale: invalid value {scale}: must be finite")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: invalid value {temperature}: must be finite and greater than 0")
    if not abs(scale) <= temperature * torch.finfo(torch.float32).max:
        raise ValueError(f"temperature: invalid value {temperature}: must not be so small that scale {scale} overflows")


def check_use(use: Use) -> None:
    """That draws of this use are known."""
    if use not in tuple(Use):
        raise ValueError(f"use: invalid value {use!r}: must be one of {', '.join(f'Use.{one.name}' for one in Use)}")


def check_keep(keep: int, importance: Tensor) -> None:
    """That so many patches can be kept."""
    check_whole(keep=keep)
    if not 0 <= keep <= importance.shape[1]:
        raise ValueError(f"keep: invalid value {keep}: must be in [0, {importance.shape[1]}], the number of patches")


def check_top(top: Tensor, patches: int) -> None:
    """That ``top`` holds positions among so many patches."""
    check_values("top", top, 0, patches - 1, f"in [0, {patches}), positions of patches")


def check_rows(name: str, values: Tensor, seed: int, index: Tensor) -> None:
    """That values (B, L) are of the clips ``index (B,)``."""
    check_whole(seed=seed)
    check_floats(**{name: values})
    check_integers(index=index)
    tensors = {name: values, "index": index}
    check_shape(values.ndim == 2 and index.shape == values.shape[:1], "(B, L) and (B,)", **tensors)
    check_layout(**tensors)
    if not torch.compiler.is_compiling() and not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: invalid value {seed}: must fit into 64 bits with a sign")


def check_weights(importance: Tensor, pruned: Tensor, keep: int, seed: int, index: Tensor) -> None:
    """That patches can be drawn by importance."""
    check_rows("importance", importance, seed, index)
    _check_tensor("pruned", pruned)
    if pruned.dtype != torch.bool:
        raise TypeError(f"pruned: invalid type {pruned.dtype}: must be torch.bool")
    check_shape(pruned.shape == importance.shape, "the same", pruned=pruned, importance=importance)
    check_layout(importance=importance, pruned=pruned)
    check_keep(keep, importance)
    check_values("importance", importance, 0, torch.finfo(importance.dtype).max, "finite and not negative")


def _check_tensor(name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: invalid type {type(tensor).__name__}: must be a tensor")
