"""The segmentation decoder: sizes, every parameter in use, and the product of TPAVI taken from the other side."""

import pytest
import torch

from avcl.clip import Grid
from avcl.evaluation.decoder import AudioAttention, Decoder

GRID = Grid(2, 3, 4, 5, 2)


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_any_number_of_blocks_and_any_size(scales):
    decoder = Decoder(GRID, scales, hidden=12, audio=6, width=8)
    features = [torch.randn(2, GRID.video, 12) for _ in range(scales)]
    assert decoder(features, torch.randn(2, 6), 50, 60).shape == (2, 2, 50, 60)


def test_two_blocks_are_the_authors_sizes():
    """14 x 14 patches: scales of 56 and 28, merged at 56 and 112, logits of 224 without a last resizing."""
    decoder = Decoder(Grid(1, 14, 14, 2, 2), 2, hidden=8, audio=4, width=4)
    sizes = []
    for module in (*decoder.dilated, *decoder.merge, decoder.mask):
        module.register_forward_hook(lambda _, __, made: sizes.append(made.shape[-1]))
    decoder([torch.randn(1, 196, 8)] * 2, torch.randn(1, 4), 224, 224)
    assert sizes == [56, 28, 56, 112, 224]


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    decoder = Decoder(GRID, 2, hidden=12, audio=6, width=8)
    for attend in decoder.attend:
        torch.nn.init.ones_(attend.scale.weight)  # starts at 0, and lets nothing through
    decoder([torch.randn(2, GRID.video, 12)] * 2, torch.randn(2, 6), 12, 16).square().mean().backward()
    without = [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(without) <= {f"attend.{k}.out.bias" for k in range(2)}  # a batch norm takes the bias before it away


def test_the_audio_decides():
    torch.manual_seed(0)
    decoder = Decoder(GRID, 1, hidden=12, audio=6, width=8).eval()
    features, audio = [torch.randn(1, GRID.video, 12)], torch.randn(1, 6)
    torch.nn.init.ones_(decoder.attend[0].scale.weight)
    assert not torch.allclose(decoder(features, audio, 12, 16), decoder(features, -audio, 12, 16))


def test_tpavi_without_the_map_of_all_pairs():
    torch.manual_seed(0)
    module = AudioAttention(8, 6).eval()
    torch.nn.init.normal_(module.scale.weight)
    planes, audio = torch.randn(2, 8, 3, 4, 5), torch.randn(2, 3, 6)
    heard = module.align(audio).mT[..., None, None].expand(-1, -1, -1, 4, 5)
    theta, phi, g = (part.flatten(2) for part in (module.theta(planes), module.phi(heard), module.g(planes)))
    pairs = theta.mT @ phi / 60  # (B, THW, THW), divided by the number of places
    found = (pairs @ g.mT).mT.unflatten(2, (3, 4, 5))
    expected = module.norm((planes + module.scale(module.out(found))).movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(module(planes, audio), expected, atol=1e-5)
