"""The equations against numbers worked out by hand."""

import math

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
