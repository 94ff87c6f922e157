"""Log-mel spectrograms: sizes, padding, the right band, the right loudness, the published augmentation."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchaudio.compliance.kaldi import fbank

from avcl.data.decode import RATE
from avcl.data.log_mel import DEVIATION, MEAN, noise_and_roll, spectrogram

FLOOR = math.log(2**-23)  # Kaldi's: the smallest step of float32
PADDING = 5.081 / 4.4849  # zero, normalised: 1.1329


def tone(hertz, seconds=10.0, loudness=0.5):
    return loudness * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)


def test_ten_seconds_are_998_frames_then_padding():
    mel = spectrogram(tone(440))
    assert mel.shape == (1, 1024, 128)
    assert mel.dtype == torch.float32
    assert torch.all(mel[0, 998:] == torch.tensor(PADDING))
    assert not torch.any(mel[0, :998] == torch.tensor(PADDING))


@pytest.mark.parametrize(
    ("seconds", "times", "mels", "filled"),
    [(2.56, 256, 128, 254), (20, 1024, 128, 1024), (1, 64, 32, 64), (0.01, 64, 32, 1)],
)
def test_any_size(seconds, times, mels, filled):
    mel = spectrogram(tone(440, seconds), times, mels)
    assert mel.shape == (1, times, mels)
    padded = (mel[0] == torch.tensor(PADDING)).all(1)
    assert int((~padded).sum()) == filled


@pytest.mark.parametrize(("hertz", "band"), [(1000, 43), (2000, 67), (4000, 96)])
def test_a_tone_is_in_its_band(hertz, band):
    # 128 triangles evenly over mel(20 Hz) = 31.75 to mel(8000 Hz) = 2840.04, mel(f) = 1127 ln(1 + f / 700):
    # the centre of band b is 31.75 + 21.770 (b + 1); mel(1000 Hz) = 999.99 is nearest to that of band 43
    mel = 1127 * math.log(1 + hertz / 700)
    assert round((mel - 31.75) / 21.770) - 1 == band
    assert torch.all(spectrogram(tone(hertz))[0, 10:990].argmax(1) == band)


def test_half_as_loud_is_a_quarter_of_the_power():
    loud, soft = spectrogram(tone(1000, loudness=0.5)), spectrogram(tone(1000, loudness=0.25))
    assert_close((loud - soft)[0, :998, 43], torch.full((998,), math.log(4) / 4.4849), atol=1e-4, rtol=0)


def test_loudness_of_a_tone_by_hand():
    # A tone of amplitude a at the centre of an FFT bin has |X|^2 = (a N / 4)^2 there under a Hann window of N,
    # and a quarter of it on either side; the bands weigh bins by their triangles in mel.
    amplitude, hertz, fft, window = 0.5, 1000.0, 512, 400
    mel = lambda f: 1127 * math.log(1 + f / 700)  # noqa: E731
    low, step = mel(20), (mel(8000) - mel(20)) / 129
    power = 0.0
    for bin_ in range(fft // 2):
        f = bin_ * RATE / fft
        weight = max(0.0, 1 - abs((mel(f) - low) / step - 44)) if f else 0.0
        x = (hertz - f) * window / RATE  # distance in units of the window's own bins
        hann = 0.5 * np.sinc(x) + 0.25 * (np.sinc(x - 1) + np.sinc(x + 1))
        power += weight * (amplitude / 2 * window * hann) ** 2
    emphasis = 1 + 0.97**2 - 2 * 0.97 * math.cos(2 * math.pi * hertz / RATE)  # pre-emphasis, as a gain of power
    expected = (math.log(power * emphasis) - MEAN) / DEVIATION
    assert spectrogram(tone(hertz))[0, 500, 43].item() == pytest.approx(expected, abs=0.02)


def test_the_published_call():
    wave = tone(1000) + 0.25  # a constant is taken out before anything else
    settings = {"htk_compat": True, "sample_frequency": 16000, "use_energy": False, "window_type": "hanning"}
    settings |= {"num_mel_bins": 128, "dither": 0.0, "frame_shift": 10}
    theirs = fbank((wave - wave.mean())[None], **settings)
    assert torch.equal(spectrogram(wave)[0, :998], (theirs + 5.081) / 4.4849)
    assert not torch.equal(spectrogram(wave)[0, :998], (fbank(wave[None], **settings) + 5.081) / 4.4849)


def test_silence_is_at_the_floor():
    mel = spectrogram(torch.zeros(RATE), 128, 64)[0]
    assert_close(mel[:98], torch.full((98, 64), (FLOOR - MEAN) / DEVIATION), atol=1e-4, rtol=0)


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


def test_augmentation_follows_its_generator():
    mel = spectrogram(tone(440, 2.56), 256, 128)
    one, same, other = (noise_and_roll(mel, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
