"""How recordings become clips: said in weights files, by scenarios, and for checkpoints that do not say it."""

import json

import pytest
import torch
from helpers.miniature import SMALL

from avcl.backbones.weights import load_weights, save_weights
from avcl.clip import Shape
from avcl.data.log_mel import spectrogram
from avcl.data.preprocessing import Preprocessing
from avcl.data.transforms import normalise, resize, shrink
from avcl.errors import SettingsError, UserError
from avcl.experiment.run import Run
from avcl.scenarios.synthetic import Synthetic
from avcl.settings import build
from avcl.testing import Noise, small_backbone


def test_the_defaults_are_the_papers():
    how = Preprocessing()
    assert str(how) == "4 frames in 4 s of the first 10 s, 224 x 224, log-mel of 1024 x 128"
    assert (how.sample_rate, how.hop, how.span, how.mel_mean, how.mel_deviation) == (16000, 0.01, 0.025, -5.081, 4.4849)
    assert (how.picture_mean, how.picture_deviation) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert how.heard == 10.0
    assert Preprocessing(times=512).heard == 5.12
    assert Preprocessing.published(how.shape) == how


def test_one_frame_is_the_one_in_the_middle_as_of_cav_mae():
    how = Preprocessing.published(Shape(1, 224, 224, 1024, 128))
    assert str(how) == "1 frame in the middle of the first 10 s, 224 x 224, log-mel of 1024 x 128"

    class Asked:
        def pictures(self, times):
            return times

    assert how.read_pictures(Asked(), 10.0) == [5.0]  # frame 5 of 10, one a second
    assert Preprocessing().read_pictures(Asked(), 60.0) == [3.0, 4.0, 5.0, 6.0]


def test_every_constant_is_used():
    pictures = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    wave = torch.randn(16000)
    how = Preprocessing(**SMALL)
    still = resize(shrink(pictures, 37, 37), 32, 32)
    assert torch.equal(how.to_frames(pictures), normalise(still))
    assert torch.equal(how.to_mel(wave), spectrogram(wave, 128, 32))
    other = Preprocessing(**SMALL, picture_mean=(0.5, 0.5, 0.5), picture_deviation=(0.25, 0.5, 1.0), mel_mean=1.0)
    expected = (still.float() / 255 - 0.5) / torch.tensor([0.25, 0.5, 1.0])[:, None, None]
    torch.testing.assert_close(other.to_frames(pictures), expected)
    bands = spectrogram(wave, 128, 32) * 4.4849 - 5.081
    torch.testing.assert_close(other.to_mel(wave), (bands - 1) / 4.4849)
    slow = Preprocessing(**SMALL, hop=0.02, mel_mean=0.0, mel_deviation=1.0)
    assert (slow.to_mel(wave)[0, :, 0] != 0).sum() == 1 + (16000 - 400) // 320


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sample_rate": 8000}, "sample_rate: invalid value 8000: must be 16000, the rate of decoding"),
        ({"window": 20.0}, "window: 20 is longer than the 10 seconds used of every file"),
        ({"mel_deviation": 0}, "mel_deviation: invalid value 0: must be greater than 0"),
        ({"windows": 2}, "windows: unknown setting; did you mean 'window'?"),
    ],
)
def test_mistakes_are_one_line(settings, text):
    with pytest.raises(SettingsError) as error:
        build(Preprocessing, settings)
    assert str(error.value) == text


def test_weights_carry_it_as_json_and_old_ones_have_none(tmp_path):
    backbone, how = small_backbone(), Preprocessing(**SMALL)
    save_weights(tmp_path / "old.safetensors", backbone)
    assert load_weights(tmp_path / "old.safetensors").preprocessing is None
    backbone.preprocessing = how.settings()
    save_weights(tmp_path / "new.safetensors", backbone)
    carried = load_weights(tmp_path / "new.safetensors").preprocessing
    assert carried == how.settings() == json.loads(json.dumps(how.settings()))
    assert build(Preprocessing, carried) == how
    backbone.save_pretrained(tmp_path / "folder")
    again = type(backbone).from_pretrained(tmp_path / "folder")
    assert again.preprocessing == carried
    content = (tmp_path / "new.safetensors").read_bytes()
    (tmp_path / "new.safetensors").write_bytes(content.replace(b'"preprocessing":"{', b'"preprocessing":"5'))
    with pytest.raises(UserError, match="corrupt: "):
        load_weights(tmp_path / "new.safetensors")


def test_what_was_rendered_says_so_and_no_seconds():
    scenario = Synthetic()
    how = scenario.preprocessing
    assert how.shape == scenario.shape
    assert str(how) == "rendered clips, 2 frames of 64 x 64, log-mel of 256 x 64"
    assert not {"window", "seconds", "sample_rate", "hop", "span"} & how.settings().keys()
    assert build(Preprocessing, how.settings()) == how
    frames, mel, _ = scenario.clips(0, "eval").draw(3)
    item = scenario.clips(0, "eval")[3]
    torch.testing.assert_close((torch.from_numpy(mel)[None] - how.mel_mean) / how.mel_deviation, item["mel"])
    scaled = (torch.from_numpy(frames) - how.picture_mean[0]) / how.picture_deviation[0]
    torch.testing.assert_close(scaled, item["frames"])
    assert load_weights(scenario.bundled_weights).preprocessing == how.settings()


def test_a_run_gives_its_backbone_that_of_its_scenario(tmp_path):
    parts = {"strategies": [], "folder": tmp_path / "run"}
    scenario = Synthetic(height=32, width=32, times=64, mels=32, object=0.4)
    run = Run(scenario=scenario, backbone=small_backbone(), **parts)
    assert run.backbone.preprocessing == scenario.preprocessing.settings()
    run = Run(scenario=Noise(), backbone=run.backbone, **parts)  # which says none
    assert run.backbone.preprocessing is None
