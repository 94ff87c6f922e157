"""Log-mel spectrograms with the numbers of AST and CAV-MAE (arXiv:2210.07839)."""

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.compliance.kaldi import fbank

from avcl.data.decode import RATE

MEAN, DEVIATION = -5.081, 4.4849
HOP, SPAN = 0.01, 0.025
"""Seconds from one frame of the spectrogram to the next, and seconds that each of them hears."""


def spectrogram(
    wave: Tensor,
    times: int = 1024,
    mels: int = 128,
    *,
    hop: float = HOP,
    span: float = SPAN,
    mean: float = MEAN,
    deviation: float = DEVIATION,
    centred: bool = False,
) -> Tensor:
    """The normalised log-mel spectrogram (1, times, mels) of 16 kHz ``wave`` (samples,).

    10 s make 998 frames. What is missing at the end is zero *before* normalisation, as published, and so
    becomes 1.133, louder than silence; what is too much is cut off. ``centred``: as much is missing before as after.
    """
    wave = pad(wave - wave.mean(), (0, max(0, round(span * RATE) - len(wave))))
    bands = fbank(
        wave[None],
        sample_frequency=RATE,
        num_mel_bins=mels,
        frame_length=1000 * span,
        frame_shift=1000 * hop,
        window_type="hanning",
        htk_compat=True,
        use_energy=False,
        dither=0.0,
    )[:times]
    missing = times - len(bands)
    before = missing // 2 if centred else 0
    bands = pad(bands, (0, 0, before, missing - before))
    return ((bands - mean) / deviation)[None]


def noise_and_roll(mel: Tensor, generator: Generator) -> Tensor:
    """The published augmentation of a normalised ``mel (1, times, mels)``: up to 0.1 of noise, rolled in time."""
    loudness = generator.random() / 10
    noise = torch.from_numpy(generator.random(mel.shape, dtype="float32"))
    times = mel.shape[1]
    return torch.roll(mel + noise * loudness, int(generator.integers(-times, times)), dims=1)


def spec_augment(mel: Tensor, generator: Generator, mels: float, times: float) -> Tensor:
    """SpecAugment (arXiv:1904.08779): a band of a normalised ``mel (1, times, mels)`` and a stretch of it become 0.

    ``mels``, ``times``: the most that is masked, as a share of each axis; the widths are drawn uniformly.
    """
    mel = mel.clone()
    for axis, share in ((2, mels), (1, times)):
        width = int(generator.uniform(0, share * mel.shape[axis]))
        start = int(generator.integers(mel.shape[axis] - width + 1))
        mel.narrow(axis, start, width).zero_()
    return mel
