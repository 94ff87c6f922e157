"""``avcl embed`` and ``avcl search``: after a short training on real files a clip finds its own sound."""

import colorsys
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.material import sine, truncate, write_clip
from typer.testing import CliRunner

from avcl import Embedder
from avcl.backbones.weights import load_weights, save_weights
from avcl.cli.main import app
from avcl.data.decode import sound
from avcl.testing import small_backbone

TONES = 8
OUT = ("--out", "x.parquet")
WINDOW = {"frames": 1, "height": 32, "width": 32, "times": 96, "mels": 32, "window": 1.0, "seconds": 1.0}
BACKBONE = {"size": "tiny", "dim": 48, "depth": 1, "decoder_dim": 32, "mask_ratio": 0.5, "mae_weight": 0.1}


def take(path, place, number):
    """A second of one colour with a tone, whose pitch follows the hue; every take is a little different."""
    draw = np.random.default_rng((place, number))
    hue, light = (place + draw.uniform(-0.1, 0.1)) / TONES, draw.uniform(0.8, 1.0)
    colour = np.array([255 * share for share in colorsys.hsv_to_rgb(hue % 1, 1.0, light)], np.uint8)
    tone = sine(1.0, 16000, 200 * 2 ** (4.5 * hue), draw.uniform(0.3, 0.6)) + draw.normal(0, 0.01, 16000)
    look = {"paint": lambda time, height, width: np.tile(colour, (height, width, 1)), "fps": 8, "size": (32, 32)}
    return write_clip(path, seconds=1, **look, tracks=[{0: tone.astype(np.float32)}], rate=16000, layout="mono")


def command(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def extracted(clip, path):
    """The sound of a clip, as a file of its own."""
    tracks = [{0: sound(str(clip)).numpy()}]
    return write_clip(path, video=None, audio="pcm_s16le", tracks=tracks, rate=16000, layout="mono")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with ``run``, trained on ``clips/train``; ``clips/eval`` are other takes of the same tones."""
    home = tmp_path_factory.mktemp("home")
    for split, number in (("train", 0), ("eval", 1)):
        for place in range(TONES):
            take(home / "clips" / split / "tones" / "pure" / f"tone{place}.mp4", place, number)
    settings = {
        "scenario": {"name": "folder", "root": str(home / "clips"), **WINDOW},
        "backbone": {"name": "cav-mae", **BACKBONE},
        "strategy": "finetune",
        "learner": {"epochs": 60, "batch_size": TONES, "lr": 3e-3},
        "device": "cpu",
    }
    (home / "run.yaml").write_text(json.dumps(settings))
    done = command("train", home / "run.yaml", "--out", home / "run")
    assert done.exit_code == 0, done.output
    return home


def test_a_clip_finds_its_own_sound(home, tmp_path):
    clips, table = home / "clips" / "eval", tmp_path / "clips.parquet"
    done = command("embed", home / "run", clips, "--out", table)
    assert (done.exit_code, done.stdout) == (0, f"{table}: 8 files, 8 with audio, 8 with video, 48 dimensions\n")
    assert pq.read_table(table)["kind"].to_pylist() == ["audio+video"] * TONES
    sounds = tmp_path / "sounds"
    first = {"sound": [], "video": []}
    for place in range(TONES):  # none of these takes was trained on
        wav = extracted(clips / "tones" / "pure" / f"tone{place}.mp4", sounds / f"tone{place}.wav")
        found = command("search", home / "run", "--index", table, "--sound", wav).stdout.splitlines()
        assert len(found) == 5
        first["sound"].append(found[0].endswith(f"/tone{place}.mp4"))
    for place in range(TONES):  # and back: a folder of sounds, embedded on the way
        clip = clips / "tones" / "pure" / f"tone{place}.mp4"
        index = sounds if place < 2 else table
        found = command("search", home / "run", "--index", index, "--video", clip, "--top", 1).stdout
        first["video"].append(re.fullmatch(rf"\+0\.\d{{3}}  .*/tone{place}\.(wav|mp4)\n", found) is not None)
    assert all(first["sound"] + first["video"]), first


def test_the_same_in_python_in_six_lines(home, tmp_path):
    embedder = Embedder.from_pretrained(home / "run")
    clips = embedder.embed_files(home / "clips" / "eval")
    for place, path in enumerate(clips.paths):
        wav = extracted(path, tmp_path / f"{place}.wav")
        (found, similarity), *_ = clips.search(embedder.embed_audio(wav), "video")
        assert found == path
        assert similarity > 0.2


def test_weights_know_their_preprocessing(home):
    carried = load_weights(home / "run" / "weights.safetensors").preprocessing
    assert carried.items() >= {**WINDOW, "rendered": False, "sample_rate": 16000, "mel_mean": -5.081}.items()
    shown = command("weights", "show", home / "run").stdout.splitlines()
    assert shown[shown.index("preprocessing:") + 8 : shown.index("preprocessing:") + 11] == [
        "  seconds: 1.0",
        "  sample_rate: 16000",
        "  hop: 0.01",
    ]


def test_a_sound_finds_itself_among_sounds(home, tmp_path):
    wav = extracted(home / "clips" / "eval" / "tones" / "pure" / "tone3.mp4", tmp_path / "three.wav")
    found = command("search", home / "run", "--index", home / "clips", "--sound", wav, "--same", "--top", 2)
    lines = found.stdout.splitlines()
    assert lines[0] == f"+1.000  {home}/clips/eval/tones/pure/tone3.mp4"
    assert lines[1].endswith("/clips/train/tones/pure/tone3.mp4")  # the other take of the same tone


def test_npz_by_its_suffix_and_bad_files_are_skipped(home, tmp_path, caplog):
    clip = home / "clips" / "eval" / "tones" / "pure" / "tone0.mp4"
    (tmp_path / "notes.txt").write_text("no medium")
    done = command("embed", home / "run", clip, tmp_path / "notes.txt", "--out", tmp_path / "x.npz", "--workers", 1)
    told = f"{tmp_path}/x.npz: 2 files, 1 with audio, 1 with video, 48 dimensions\n"
    assert (done.exit_code, done.stdout) == (0, told)
    assert caplog.messages[-2:] == [f"skipped {tmp_path}/notes.txt: not a media file", "skipped 1 of 2 files"]
    with np.load(tmp_path / "x.npz") as found:
        assert found["kind"].tolist() == ["audio+video", ""]
        assert found["error"].tolist() == ["", "not a media file"]


# ---- mistakes ----
@pytest.fixture
def mistaken(home, tmp_path, monkeypatch):
    """Runs a command in a folder of what cannot be used; what it says, without ``avcl: ``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 40)
    (tmp_path / "empty.wav").touch()
    take(tmp_path / "cut.mp4", 0, 0)
    truncate(tmp_path / "cut.mp4", 0.5)
    (tmp_path / "bare").mkdir()
    extracted(home / "clips" / "eval" / "tones" / "pure" / "tone0.mp4", tmp_path / "sounds" / "tone.wav")
    save_weights(tmp_path / "rendered.safetensors", load_bundled())

    def run(*words):
        words = [str(home / word) if word in ("run", "clips") else word for word in words]
        result = command(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        lines = result.stderr.replace(str(home), "HOME").splitlines()
        assert lines[-1].startswith("avcl: ")
        return lines[-1].removeprefix("avcl: ")

    return run


def load_bundled():
    backbone = small_backbone()
    backbone.preprocessing = {"rendered": True, "frames": 2, "height": 32, "width": 32, "times": 64, "mels": 32}
    return backbone


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["embed", "run", "text.mp4", *OUT], "text.mp4: not a media file"),
        (["embed", "run", "empty.wav", *OUT], "empty.wav: empty file"),
        (["embed", "run", "cut.mp4", *OUT], "cut.mp4: truncated"),
        (
            ["embed", "run", "text.mp4", "empty.wav", *OUT],
            "none of 2 files can be embedded; the first: text.mp4: not a media file",
        ),
        (["embed", "run", "bare", *OUT], "bare: holds no audio or video files (.mp4, .wav, ...)"),
        (["embed", "run", "nothing.mp4", *OUT], "nothing.mp4: no such file or folder"),
        (
            ["embed", "run", "clips", "--out", "x.csv"],
            "--out: invalid value 'x.csv': must end in .parquet or .npz",
        ),
        (
            ["embed", "run", "clips", "--device", "gpu", *OUT],
            "device: invalid value 'gpu': must be auto, cpu, cuda or cuda:N",
        ),
        (
            ["embed", "bare", "clips", *OUT],
            "bare: holds no weights: neither model.safetensors nor weights.safetensors, which a run writes at its end",
        ),
        (
            ["embed", "nobody/nothing", "clips", *OUT],
            "nobody/nothing: no such file or folder, and no model.safetensors of that name comes from the Hugging Face "
            "Hub (LocalEntryNotFoundError); fetch it where there is a network, and give the file",
        ),
        (["embed", "nowhere.safetensors", "clips", *OUT], "nowhere.safetensors: no such file"),
        (["embed", "text.mp4", "clips", *OUT], "text.mp4: not a safetensors file ("),
        (
            ["embed", "rendered.safetensors", "clips", *OUT],
            "rendered.safetensors: trained on rendered clips, whose log-mel spectrogram no recording has; embed "
            "tensors with Embedder.embed_clips, or train on files (scenario folder or listed)",
        ),
        (["search", "run", "--index", "clips"], "--sound, --video: give one of them"),
        (["search", "run", "--index", "clips", "--sound", "text.mp4"], "text.mp4: not a media file"),
        (["search", "run", "--index", "clips", "--video", "sounds/tone.wav"], "sounds/tone.wav: no video stream"),
        (
            ["search", "run", "--index", "sounds", "--sound", "sounds/tone.wav"],
            "sounds: no file in it has video; --same searches by audio alone",
        ),
        (["search", "run", "--index", "x.parquet", "--sound", "sounds/tone.wav"], "x.parquet: no such file"),
        (["search", "run", "--index", "text.mp4", "--sound", "sounds/tone.wav"], "text.mp4: not a media file"),
    ],
)
def test_a_mistake_is_one_line(mistaken, words, text):
    told = mistaken(*words)
    assert told.startswith(text) if text.endswith("(") else told == text


def test_an_index_is_of_its_weights_alone(mistaken, home, tmp_path):
    assert command("embed", home / "run", "sounds", "--out", "sounds.parquet").exit_code == 0
    other = load_weights(home / "run" / "weights.safetensors")
    backbone = small_backbone()
    backbone = type(backbone)(**other.settings)
    backbone.preprocessing = other.preprocessing
    backbone.save_pretrained(tmp_path / "other")
    assert mistaken("search", "other", "--index", "sounds.parquet", "--video", "cut.mp4") == "cut.mp4: truncated"
    told = mistaken("search", "other", "--index", "sounds.parquet", "--same", "--sound", "sounds/tone.wav")
    assert told == (
        "sounds.parquet: embeddings of other weights (HOME/run) than other; make it again with "
        "`avcl embed other FILES --out sounds.parquet`"
    )
