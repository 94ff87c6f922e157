"""The embedder: an embedded file is the evaluation's item, a bad one is nobody else's, and little has to be said."""

import logging
import re

import numpy as np
import pytest
import torch
from helpers.material import quarters, sine, snow, truncate, write_album, write_clip
from helpers.miniature import SMALL
from torch.nn.functional import normalize

from avcl import CavMae, Embedder
from avcl.backbones.weights import save_weights
from avcl.clip import Clip
from avcl.data.decode import frames, sound
from avcl.data.preprocessing import Preprocessing
from avcl.errors import BadClip, SettingsError, UserError
from avcl.evaluation.media import media_files, read
from avcl.scenarios.folder import Folder
from avcl.testing import Noise, small_backbone

pytestmark = pytest.mark.media

HOW = Preprocessing(**SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, a sound, a video without sound, and what cannot be used."""
    root = tmp_path_factory.mktemp("own") / "files"
    take = {"fps": 10, "size": (64, 48), "rate": 16000, "layout": "mono"}
    write_clip(root / "one.mp4", seconds=3.0, paint=snow, **take)
    write_clip(root / "two.mp4", seconds=2.2, paint=quarters, tracks=[{0: sine(2.2, 16000, 900.0)}], **take)
    noise = np.random.default_rng(0).normal(0, 0.1, 40000).astype(np.float32)
    write_clip(root / "sounds" / "a.wav", video=None, audio="pcm_s16le", tracks=[{0: noise}], rate=16000, layout="mono")
    write_clip(root / "sounds" / "b.flac", video=None, audio="flac", seconds=2)
    write_album(root / "sounds" / "album.mp4", seconds=2.0)
    write_clip(root / "sounds" / "c.mp3", video=None, audio="libmp3lame", seconds=2)
    write_clip(root / "still.mp4", seconds=2, audio=None, fps=10, size=(64, 48))
    write_clip(root / "silent.mp4", seconds=2, tracks=[{0: np.zeros(32000, np.float32)}], **take)
    write_clip(root / "sounds" / "short.wav", video=None, audio="pcm_s16le", seconds=0.5)
    write_clip(root / "x" / "cut.mp4", seconds=2)
    truncate(root / "x" / "cut.mp4", 0.5)
    (root / "x" / "empty.wav").touch()
    (root / "x" / "text.mp3").write_text("this is not a sound\n" * 40)
    (root / "notes.txt").write_text("no medium")
    (root / ".hidden.mp4").write_text("no medium")
    return root


@pytest.fixture
def embedder():
    return Embedder(backbone_for(HOW), HOW, device="cpu", batch_size=3)


def backbone_for(how):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CavMae(**small_backbone().settings() | how.shape._asdict())


def alike(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


# ---- an embedded file is the evaluation's item ----
def test_a_file_is_read_bit_for_bit_as_the_item_of_an_evaluation(folder, tmp_path, embedder):
    home = tmp_path / "root" / "task" / "class"
    home.mkdir(parents=True)
    for name in ("one.mp4", "two.mp4"):
        (home / name).symlink_to(folder / name)
    scenario = Folder(root=str(tmp_path / "root"), **SMALL)
    assert scenario.preprocessing == HOW
    clips = [scenario.clips(0, split) for split in ("train", "eval")]
    for dataset in clips:
        item, found = dataset[0], read(dataset.sources[0].path, HOW)
        assert torch.equal(found.frames, item["frames"])
        assert torch.equal(found.mel, item["mel"])
        # and so are its embeddings those of a whole clip, seen and heard together
        whole = Clip.cut(item["frames"][None], item["mel"][None], 16)
        expected = embedder.backbone.embed(whole)
        audio, video = embedder.embed(dataset.sources[0].path)
        alike(audio, expected[0][0].detach())
        alike(video, expected[1][0].detach())
        alike(embedder.embed_clips(dataset).audio, expected[0].detach())
    assert embedder.backbone.training is False


def test_a_waveform_is_heard_as_its_file(folder, embedder):
    path = folder / "sounds" / "a.wav"
    wave = sound(str(path))
    expected = embedder.embed(path).audio
    assert torch.equal(embedder.embed_audio(path), expected)
    assert torch.equal(embedder.embed_audio(wave, 16000), expected)
    whole = (wave * 2**15).to(torch.int16).numpy()
    assert torch.equal(embedder.embed_audio(whole, 16000), expected)
    assert torch.equal(embedder.embed_audio(np.stack([whole, whole]), rate=16000), expected)
    # at another rate the same tone, as far as two resamplers agree
    low, high = (torch.from_numpy(sine(2.0, rate, 500.0)) for rate in (16000, 48000))
    one, other = embedder.embed_audio(low, 16000), embedder.embed_audio(high, 48000)
    assert normalize(one, dim=0) @ normalize(other, dim=0) > 0.999
    many = embedder.embed_audio([path, low, folder / "one.mp4", low], 16000)
    assert many.shape == (4, 24)
    alike(many[0], expected)
    alike(many[1], many[3])


def test_frames_are_seen_as_their_file(folder, embedder):
    path = str(folder / "one.mp4")
    seen = frames(path, [0.5, 1.0])  # the middle second of the first two
    expected = embedder.embed(path).video
    assert torch.equal(embedder.embed_video(path), expected)
    assert torch.equal(embedder.embed_video(seen), expected)
    assert torch.equal(embedder.embed_video(seen.permute(0, 2, 3, 1).numpy()), expected)
    every = frames(path, [0.5, 0.75, 1.0, 1.25])
    assert torch.equal(embedder.embed_video(every), expected)
    alike(embedder.embed_video([path, seen, folder / "still.mp4", seen])[3], expected)


@pytest.mark.parametrize(
    ("give", "text"),
    [
        (lambda e: e.embed_audio(torch.zeros(16000)), "rate: required with a waveform: its samples per second"),
        (
            lambda e: e.embed_audio(torch.zeros(1, 1, 9), 16000),
            "waveform: invalid shape (1, 1, 9): must be (samples,) or (channels, samples)",
        ),
        (lambda e: e.embed_audio(torch.zeros(8000), 16000), "waveform: 0.5 s of audio, shorter than 1.0 s"),
        (
            lambda e: e.embed_video(torch.zeros(2, 3, 32, 32)),
            "frames: invalid value of torch.float32 (2, 3, 32, 32): must be uint8 (T, 3, height, width) or "
            "(T, height, width, 3)",
        ),
        (
            lambda e: e.embed_video(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)),
            "frames: 1 of a window, fewer than 2",
        ),
        (lambda e: e.embed("nowhere.mp4"), "nowhere.mp4: no such file or directory"),
        (lambda e: e.embed_clips([{"frames": torch.zeros(1), "mel": torch.zeros(1, 128, 32)}]), "frames: invalid shape "
         "(1,) of a clip: must be (2, 3, 32, 32)"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_one_line(embedder, give, text):
    with pytest.raises((UserError, BadClip), match=f"^{re.escape(text)}$"):
        give(embedder)


# ---- many files ----
def test_bad_files_are_named_and_never_another_one(folder, embedder, caplog):
    with caplog.at_level(logging.INFO, "avcl"):
        found = embedder.embed_files(folder)
    rows = {path.removeprefix(f"{folder}/"): row for row, path in enumerate(found.paths)}
    kinds = dict(zip(rows, found.kinds, strict=True))
    assert kinds == {
        "one.mp4": "audio+video",
        "silent.mp4": "video",
        "still.mp4": "video",
        "two.mp4": "audio+video",
        "sounds/a.wav": "audio",
        "sounds/album.mp4": "audio",  # its cover is no video
        "sounds/b.flac": "audio",
        "sounds/c.mp3": "audio",
        "sounds/short.wav": "",
        "x/cut.mp4": "",
        "x/empty.wav": "",
        "x/text.mp3": "",
    }
    errors = {name: found.errors[row] for name, row in rows.items() if found.errors[row]}
    assert errors == {
        "silent.mp4": "audio: silent",
        "sounds/short.wav": "0.5 s of audio, shorter than 1.0 s",
        "x/cut.mp4": "truncated",
        "x/empty.wav": "empty file",
        "x/text.mp3": "not a media file",
    }
    assert "1 file of" in caplog.messages[0]
    assert "with other endings not read: .txt" in caplog.messages[0]
    assert f"skipped a part of {folder}/silent.mp4: audio: silent" in caplog.messages
    assert f"skipped {folder}/x/cut.mp4: truncated" in caplog.messages
    assert caplog.messages[-1] == "skipped 4 of 12 files"
    for name, row in rows.items():  # every row is its own file's, whatever stands before it
        for kind in kinds[name].split("+") if kinds[name] else ():
            alike(getattr(found, kind)[row], getattr(embedder.embed(folder / name), kind))
    assert found.seconds[rows["one.mp4"]] == 2.0  # as much as is used
    assert found.seconds[rows["x/cut.mp4"]] == 0.0


def test_neither_batches_nor_workers_change_a_result(folder, embedder):
    one = embedder.embed_files(folder)
    for options in ({"batch_size": 1}, {"batch_size": 64}, {"batch_size": 2, "workers": 2}):
        other = Embedder(embedder.backbone, HOW, device="cpu", **options).embed_files(folder)
        assert (one.paths, one.kinds, one.errors, one.about) == (other.paths, other.kinds, other.errors, other.about)
        alike(one.audio.nan_to_num(9), other.audio.nan_to_num(9))
        alike(one.video.nan_to_num(9), other.video.nan_to_num(9))


def test_files_folders_and_patterns_each_once(folder, tmp_path):
    by_pattern = media_files([folder / "**" / "*.wav"])
    assert [path.removeprefix(f"{folder}/") for path in by_pattern] == [
        "sounds/a.wav",
        "sounds/short.wav",
        "x/empty.wav",
    ]
    assert media_files([folder / "one.mp4", folder / "*.mp4", folder / "one.mp4"])[0] == f"{folder}/one.mp4"
    assert len(media_files([folder / "one.mp4", folder])) == len(media_files([folder])) == 12
    assert media_files([folder / "notes.txt"]) == [f"{folder}/notes.txt"]  # who names a file means it
    for wrong, text in (
        (tmp_path, "holds no audio or video files (.mp4, .wav, ...)"),
        ("*.none", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'{wrong}: {text}')}$"):
            media_files([folder, wrong])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_embeds_as_the_cpu(folder, embedder):
    one = embedder.embed_files(folder)
    other = Embedder(backbone_for(HOW), HOW, device="cuda").embed_files(folder)
    assert (one.paths, one.kinds) == (other.paths, other.kinds)
    torch.testing.assert_close(one.audio.nan_to_num(9), other.audio.nan_to_num(9), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(one.video.nan_to_num(9), other.video.nan_to_num(9), rtol=1e-2, atol=1e-3)


# ---- every layer ----
def test_features_of_every_layer_in_three_lines(folder, embedder):
    layers = embedder.features(folder / "one.mp4")
    sizes = {name: tuple(tokens.shape) for name, tokens in layers.items()}
    assert sizes == {
        "audio.blocks.0": (16, 24),
        "video.blocks.0": (8, 24),
        "fusion.0": (24, 24),
        "joint.audio": (16, 24),
        "joint.video": (8, 24),
    }
    assert torch.equal(torch.cat([layers["joint.audio"], layers["joint.video"]]), layers["fusion.0"])
    found = read(str(folder / "one.mp4"), HOW)
    joint = embedder.backbone.tokens(Clip.cut(found.frames[None], found.mel[None], 16))
    alike(layers["joint.video"], joint[1][0].detach())
    heard, seen = embedder.features(folder / "sounds" / "a.wav"), embedder.features(folder / "still.mp4")
    assert (list(heard), list(seen)) == (["audio.blocks.0"], ["video.blocks.0"])
    probe = torch.nn.Linear(24, 3)  # and they can be trained on
    (probe(layers["fusion.0"]).sum() + probe(embedder.embed(folder / "one.mp4").audio).sum()).backward()
    assert probe.weight.grad.any()
    assert not any(module._forward_hooks for module in embedder.backbone.modules())


# ---- weights and what they say ----
def test_from_pretrained_takes_what_weights_carry_and_draws_nothing(folder, tmp_path, embedder):
    backbone = embedder.backbone
    backbone.preprocessing = HOW.settings()
    save_weights(tmp_path / "x.safetensors", backbone)
    backbone.save_pretrained(tmp_path / "folder")
    save_weights(tmp_path / "run" / "weights.safetensors", backbone, {"matching": torch.nn.Linear(2, 2)})
    expected, state = embedder.embed(folder / "one.mp4"), torch.get_rng_state()
    for name in ("x.safetensors", "folder", "run"):
        again = Embedder.from_pretrained(tmp_path / name, device="cpu")
        assert again.preprocessing == HOW
        assert all(map(torch.equal, again.embed(folder / "one.mp4"), expected))
        assert again.fingerprint == embedder.fingerprint
    again.embed_files(folder / "one.mp4")
    assert torch.equal(torch.get_rng_state(), state)
    backbone.register_buffer("steps", torch.tensor(3))
    assert embedder.fingerprint != again.fingerprint
    del backbone.steps
    assert embedder.fingerprint == again.fingerprint
    other = Embedder(backbone_for(HOW), Preprocessing(**SMALL | {"window": 0.5}), device="cpu")
    assert other.fingerprint != embedder.fingerprint
    backbone.norm.weight.data += 1
    assert embedder.fingerprint != again.fingerprint


def test_weights_that_do_not_say_it_are_used_as_in_the_papers(tmp_path, caplog):
    save_weights(tmp_path / "old.safetensors", backbone_for(HOW))
    embedder = Embedder.from_pretrained(tmp_path / "old.safetensors")
    assert embedder.preprocessing == Preprocessing.published(HOW.shape)
    assert caplog.messages == [
        f"{tmp_path}/old.safetensors does not say its preprocessing; as in the papers: 2 frames in 4 s of the first "
        "10 s, 32 x 32, log-mel of 128 x 32"
    ]


def test_weights_of_rendered_clips_embed_tensors_alone(folder):
    scenario = Noise()
    backbone = small_backbone()
    how = Preprocessing(rendered=True, **scenario.shape._asdict())
    embedder = Embedder(backbone, how, source="x.safetensors", device="cpu", batch_size=5)
    clips = scenario.clips(0, "eval")
    audio, video = embedder.embed_clips(clips)
    items = [clips[number] for number in range(len(clips))]
    whole = Clip.cut(*(torch.stack([item[key] for item in items]) for key in ("frames", "mel")), 16)
    alike(audio, backbone.embed(whole)[0].detach())
    alike(video, backbone.embed(whole)[1].detach())
    wave, path = torch.zeros(16000), folder / "one.mp4"
    for refused in (
        lambda: embedder.embed(path),
        lambda: embedder.embed_files(path),
        lambda: embedder.embed_audio(wave, 16000),
        lambda: embedder.embed_video(path),
        lambda: embedder.features(path),
    ):
        with pytest.raises(
            UserError, match=r"^x\.safetensors: trained on rendered clips, whose log-mel spectrogram no "
        ):
            refused()


def test_mistakes_in_weights_and_options_are_one_line(tmp_path):
    backbone = backbone_for(HOW)
    with pytest.raises(
        UserError, match=r"^x: its preprocessing gives Grid\(.*\) of patches; the backbone takes Grid\("
    ):
        Embedder(backbone, Preprocessing(), source="x")
    with pytest.raises(UserError, match=r"^device: invalid value 'gpu': must be auto, cpu, cuda or cuda:N$"):
        Embedder(backbone, HOW, device="gpu")
    backbone.preprocessing = {"windows": 2}
    with pytest.raises(SettingsError, match=r"^x: preprocessing\.windows: unknown setting; did you mean 'window'\?$"):
        Embedder(backbone, source="x")
