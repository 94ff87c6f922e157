"""Log-mel spectrograms: sizes, padding, the right band, the published call and augmentation."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchaudio.compliance.kaldi import fbank

from avcl.data.decode import RATE
from avcl.data.log_mel import noise_and_roll, spectrogram

PADDING = 5.081 / 4.4849  # zero, normalised: 1.1329


def tone(hertz, seconds=10.0):
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize(
    ("seconds", "times", "mels", "filled"),
    [(10, 1024, 128, 998), (2.56, 256, 128, 254), (20, 1024, 128, 1024), (1, 64, 32, 64), (0.01, 64, 32, 1)],
)
def test_any_size_with_padding_behind(seconds, times, mels, filled):
    mel = spectrogram(tone(440, seconds), times, mels)
    assert (mel.shape, mel.dtype) == ((1, times, mels), torch.float32)
    assert torch.all(mel[0, filled:] == torch.tensor(PADDING))
    assert not torch.any(mel[0, :filled] == torch.tensor(PADDING))


@pytest.mark.parametrize(("hertz", "band"), [(1000, 43), (2000, 67), (4000, 96)])
def test_a_tone_is_in_its_band(hertz, band):
    # 128 triangles evenly over mel(20 Hz) = 31.75 to mel(8000 Hz) = 2840.04, mel(f) = 1127 ln(1 + f / 700):
    # the centre of band b is 31.75 + 21.770 (b + 1); mel(1000 Hz) = 999.99 is nearest to that of band 43
    mel = 1127 * math.log(1 + hertz / 700)
    assert round((mel - 31.75) / 21.770) - 1 == band
    assert torch.all(spectrogram(tone(hertz))[0, 10:990].argmax(1) == band)


def test_the_published_call():
    wave = tone(1000) + 0.25  # a constant is taken out before anything else
    settings = {"htk_compat": True, "sample_frequency": 16000, "use_energy": False, "window_type": "hanning"}
    settings |= {"num_mel_bins": 128, "dither": 0.0, "frame_shift": 10}
    theirs = fbank((wave - wave.mean())[None], **settings)
    assert torch.equal(spectrogram(wave)[0, :998], (theirs + 5.081) / 4.4849)
    assert not torch.equal(spectrogram(wave)[0, :998], (fbank(wave[None], **settings) + 5.081) / 4.4849)


def test_augmentation_is_small_noise_and_a_roll_in_time():
    mel = spectrogram(tone(440))
    shaken = noise_and_roll(mel, np.random.default_rng(3))
    draw = np.random.default_rng(3)
    loudness, noise = draw.random() / 10, draw.random((1, 1024, 128), dtype="float32")
    shift = int(draw.integers(-1024, 1024))
    assert shift != 0
    back = torch.roll(shaken, -shift, 1)
    assert_close(back, mel + loudness * torch.from_numpy(noise))
    assert (back - mel).min() >= 0
    assert (back - mel).max() <= 0.1 + 1e-5
    assert shaken.dtype == torch.float32
