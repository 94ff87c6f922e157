"""The equations against numbers worked out by hand, and several processes against one."""

import math
import subprocess
import sys

import pytest
import torch

from avcl import losses


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_contrastive_by_hand():
    # unit vectors at 0 and 90 degrees against 0 and 60 degrees: cosines [[1, 1/2], [0, sqrt(3)/2]]
    audio = rows([2.0, 0.0], [0.0, 3.0])
    video = rows([1.0, 0.0], [0.5, math.sqrt(3) / 2])
    across = math.sqrt(3) / 2

    def nll(right, *all_logits):
        return math.log(sum(math.exp(x / 0.5) for x in all_logits)) - right / 0.5

    v2a = [nll(1.0, 1.0, 0.0), nll(across, 0.5, across)]
    a2v = [nll(1.0, 1.0, 0.5), nll(across, 0.0, across)]
    expected = rows([(x + y) / 2 for x, y in zip(v2a, a2v, strict=True)])[0]
    torch.testing.assert_close(losses.contrastive(audio, video, 0.5), expected)
    torch.testing.assert_close(losses.contrastive(audio, video, 0.5, both=False), rows(v2a)[0])


def test_contrastive_ignores_length_and_is_zero_for_one_clip_and_computed_in_single_precision():
    audio, video = torch.randn(4, 8).bfloat16(), torch.randn(4, 8).bfloat16()
    exact = losses.contrastive(audio.float(), video.float(), 0.05)
    torch.testing.assert_close(losses.contrastive(7 * audio.float(), video.float() / 3, 0.05), exact)
    assert losses.contrastive(audio[:1], video[:1], 0.05).item() == 0
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.contrastive(audio, video, 0.05)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, exact)


def test_reconstruction_by_hand():
    patches = rows([1.0, 2.0, 3.0], [5.0, 5.0, 5.0])[None]  # variances 1 (unbiased) and 0
    one = 1 / math.sqrt(1 + 1e-6)
    predicted = rows([0.0, 0.0, 0.0], [3.0, 0.0, 0.0])[None]
    expected = rows([(2 * one**2 + 9) / 6])[0]
    torch.testing.assert_close(losses.reconstruction(predicted, patches), expected)


def test_reconstruction_of_each_clip_is_its_own():
    predicted, patches = torch.randn(3, 5, 7).double(), torch.randn(3, 5, 7).double()
    together = losses.reconstruction(predicted, patches)
    alone = torch.cat([losses.reconstruction(predicted[i : i + 1], patches[i : i + 1]) for i in range(3)])
    assert together.shape == (3,)
    torch.testing.assert_close(together, alone)


PROCESS = """
import sys, torch, torch.distributed as dist
from avcl import losses
from avcl.utils.distributed import average_gradients
rank, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
audio, video, weight = (x.double() for x in torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)))
weight = torch.nn.Parameter(weight)
mine = slice(2 * rank, 2 * rank + 2)
terms = [losses.contrastive(audio[mine] @ weight, video[mine] @ weight, 0.5, both=both) for both in (True, False)]
(terms[0].mean() + terms[1].mean()).backward()
average_gradients([weight])
torch.save((terms[0].detach(), terms[1].detach(), weight.grad), f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.process
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_share_negatives_and_gradient(tmp_path):
    """Two processes of two clips have the losses and the mean gradient of one process of four."""
    command = [sys.executable, "-c", PROCESS]
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path / "meet"), str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]

    audio, video, weight = (x.double() for x in torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)))
    weight.requires_grad_()
    both = losses.contrastive(audio @ weight, video @ weight, 0.5)
    one = losses.contrastive(audio @ weight, video @ weight, 0.5, both=False)
    (both.mean() + one.mean()).backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), both.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), one.detach())
    for part in parts:
        torch.testing.assert_close(part[2], weight.grad)
