"""Every op of a library over many sizes, types and strides, in a process of its own that a sanitizer watches.

Arguments: the library, the namespace of its ops, the kernels to use where it has several. It needs torch alone.
"""

import ctypes
import itertools
import sys

import torch

KEPT = []


def load(library, namespace):
    """Define the ops that a library states, and load its kernels."""
    state = ctypes.CDLL(str(library)).avcl_ops
    state.restype = ctypes.c_char_p
    KEPT.append(torch.library.Library(namespace, "FRAGMENT"))
    for schema in state().decode().splitlines()[1:]:
        KEPT[-1].define(schema)
    torch.ops.load_library(library)
    return getattr(torch.ops, namespace)


SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 5, 7, 8),
    (1, 2, 13, 33, 17),
    (2, 1, 70, 65, 64),
    (1, 1, 290, 31, 3),
    (1, 2, 9, 40, 128),
]
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def scores(ops):
    for (clips, heads, rows, keys, depth), dtype, apart in itertools.product(SHAPES, TYPES, (True, False)):
        query, key = torch.randn(clips, rows, heads, depth).to(dtype), torch.randn(clips, keys, heads, depth).to(dtype)
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        if not apart:
            query, key = query.contiguous(), key.mT.contiguous().mT
        found = ops.importance(query, key, 0.3, 0.5)
        assert torch.allclose(found.sum(1), torch.ones(clips, dtype=found.dtype), atol=1e-5)
        if dtype == torch.float32:
            query[:, 0, rows // 2] *= 1e30
            ops.importance(query, key, 0.3, 0.5)
        yield


def draws(ops):
    for clips, chunks, chunk, dtype in itertools.product((1, 3), (1, 2, 7, 300), (1, 5, 8), TYPES):
        patches = chunks * chunk
        weight, index = torch.rand(clips, patches).to(dtype), torch.arange(2 * clips)[::2] - 1
        pruned = torch.rand(clips, patches) < 0.4
        for keep, cut in itertools.product({1, (patches + 1) // 2, patches}, ("tail", "neighbours")):
            for chosen in (
                ops.sample(weight.T.contiguous().T, pruned, keep, 2**63 - 1, 2, index),
                ops.select_chunks(weight, pruned.T.contiguous().T, keep, chunk, cut, -(2**63), index),
            ):
                assert chosen.min() >= 0 and chosen.max() < patches
                assert all(len(set(row)) == keep for row in chosen.tolist())
                yield


if __name__ == "__main__":
    library, namespace, *kernels = sys.argv[1:]
    ops = load(library, namespace)
    for name in kernels:
        ctypes.CDLL(library).avcl_kernels(name.encode())
    torch.manual_seed(0)
    sys.stdout.write(f"{len([*scores(ops), *draws(ops)])} calls\n")
