"""Random numbers by counting, against published answers and the logarithm."""

import math

import pytest
import torch

from avcl.plugins.stella.ops.philox import Use, exponential, philox, words

PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]


@pytest.mark.parametrize(
    ("counter_and_key", "answer"),
    [
        ([0] * 6, "6627E8D5 E169C58D BC57AC4C 9B00DBD8"),
        ([0xFFFFFFFF] * 6, "408F276D 41C83B0E A20BC7C6 6D5451FD"),
        (PI, "D16CFE09 94FDCCEB 5001E420 24126EA1"),
    ],
)
def test_philox_gives_the_published_answers(counter_and_key, answer):
    *counter, low, high = counter_and_key
    found = philox([torch.tensor(word) for word in counter], (low, high))
    assert " ".join(f"{int(word):08X}" for word in found) == answer


def test_a_word_depends_on_seed_use_clip_and_column_alone():
    index = torch.tensor([5, 2**40 + 5, 7])
    drawn = words(3, Use.VIDEO, index, 100)
    assert torch.equal(drawn.flip(0), words(3, Use.VIDEO, index.flip(0), 100))
    assert torch.equal(drawn[1:2, :10], words(3, Use.VIDEO, index[1:2], 10))
    assert len(drawn.unique()) == 300
    for other in (words(4, Use.VIDEO, index, 100), words(3 + 2**32, Use.VIDEO, index, 100)):
        assert (other != drawn).float().mean() > 0.99
    assert (words(3, Use.AUDIO, index, 100) != drawn).float().mean() > 0.99
    assert words(-1, Use.VIDEO, index, 100).min() >= 0
    assert drawn.min() >= 0 and drawn.max() < 2**32


def test_exponential_numbers_are_the_negative_logarithm_to_the_last_digits():
    torch.manual_seed(0)
    drawn = torch.cat([torch.randint(2**32, (100_000,)), torch.arange(1000), 2**32 - 1 - torch.arange(1000)])
    expected = [-math.log((2 * word + 1) * 2.0**-33) for word in drawn[-3000:].tolist()]
    expected[-1000:] = [-math.log1p(-(2 * k + 1) * 2.0**-33) for k in range(1000)]
    torch.testing.assert_close(
        exponential(drawn[-3000:]), torch.tensor(expected, dtype=torch.float64), rtol=1e-15, atol=0
    )
    found = exponential(drawn)
    assert found.min() > 0 and found.max() < 23
