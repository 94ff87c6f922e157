"""Two processes on gloo: the same loss and the same gradient as one process with all clips."""

import socket

import pytest
import torch
import torch.multiprocessing as multiprocessing
from helpers.two_processes import clips, flat, gradient, process

from avcl.testing.toys import small_backbone
from avcl.utils import distributed


@pytest.mark.process
def test_two_processes_make_the_gradient_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(process, (port, str(tmp_path)), nprocs=2)
    backbone, whole = small_backbone(torch.float64), clips()
    masks = backbone.draw_masks(whole, torch.Generator().manual_seed(0))
    loss = gradient(backbone, whole, masks)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["rank"] == rank
        torch.testing.assert_close(found["loss"], loss, rtol=0, atol=1e-12)
        torch.testing.assert_close(found["gradient"], flat(backbone), rtol=0, atol=1e-12)


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert distributed.gather(rows) is rows
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
