"""Files that cannot be used: a plain word about each, and nothing else."""

import contextlib
import logging
import os

import numpy as np
import pytest
from helpers.material import KINDS, overwrite, refusal, snow, told, truncate, write_album, write_clip

from avcl.data.decode import frames, probe, sound
from avcl.errors import BadClip


def test_a_missing_stream_is_named(tmp_path):
    deaf, blind = write_clip(tmp_path / "deaf.mp4", audio=None), write_clip(tmp_path / "blind.mp4", video=None)
    assert refusal(sound, str(deaf)) == "no audio stream"
    assert refusal(frames, str(blind), [0.0]) == "no video stream"
    assert probe(str(deaf)).audio is None
    assert probe(str(blind)).video is None


def test_the_cover_of_an_album_is_no_video(tmp_path):
    album = write_album(tmp_path / "album.mp4")
    assert probe(str(album)).video is None
    assert refusal(frames, str(album), [0.0]) == "no video stream"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"This is not a video.\n" * 50, "not a media file"),
        (b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n", "not a media file"),
        (b"\x00\x00\x00\x20ftypisom", "truncated"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "truncated"),
    ],
)
def test_files_that_are_none(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert refusal(probe, str(path)) == reason
    assert refusal(frames, str(path), [0.0]) == reason
    assert refusal(sound, str(path)) == reason


@pytest.mark.parametrize(
    ("name", "muxing"),
    [
        ("a.mp4", {}),
        ("a.mov", {}),
        ("a.mp4", {"movflags": "faststart"}),
        ("a.mkv", {}),
    ],
)
def test_a_broken_download_shows_without_decoding(tmp_path, name, muxing):
    path = write_clip(tmp_path / name, seconds=8, muxing=muxing, coding={"g": "25"})
    whole = probe(str(path))
    assert whole.video == pytest.approx(8.0, abs=0.1)
    assert whole.audio == pytest.approx(8.0, abs=0.1)
    for share in (0.85, 0.5, 0.03):
        assert refusal(probe, str(truncate(path, share))).startswith("truncated")


@pytest.mark.parametrize(("name", "muxing"), [("a.ts", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_a_file_that_never_said_its_length_is_just_shorter(tmp_path, name, muxing):
    path = truncate(write_clip(tmp_path / name, seconds=8, muxing=muxing, coding={"g": "25"}), 0.5)
    assert probe(str(path)).video == pytest.approx(4, abs=1)


def test_a_few_missing_bytes_do_no_harm(tmp_path):
    path = write_clip(tmp_path / "a.mp4", muxing={"movflags": "faststart"})
    for missing in (1, 10, 50, 100):
        os.truncate(path, path.stat().st_size - missing)
        assert probe(str(path)).audio == pytest.approx(5.0, abs=0.1)
        assert len(sound(str(path))) == pytest.approx(80000, abs=2000)
        assert told(path, [0.0, 4.9]) == [0, 4.88]


def test_what_comes_after_the_cut_does_not_matter(tmp_path):
    path = truncate(write_clip(tmp_path / "a.mkv", seconds=8), 0.7)
    assert refusal(probe, str(path)).startswith("truncated: ends at 5.")
    assert probe(str(path), until=4.0).video > 4.0
    assert told(path, [3.0]) == [3.0]


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_noise_in_the_middle_is_refused_when_decoded(tmp_path, codec):
    path = write_clip(tmp_path / "a.mkv", video=codec, audio=None, paint=snow, size=(160, 120), seconds=2)
    overwrite(path, 0.3, path.stat().st_size // 2)
    assert refusal(frames, str(path), [0.0, 1.9]) in ("corrupt video", "no picture at 1.9 s")


def test_noise_in_the_sound_is_refused_when_decoded(tmp_path):
    path = overwrite(write_clip(tmp_path / "a.mp4", video=None), 0.4, 4000)
    assert probe(str(path)).audio == pytest.approx(5.0, abs=0.1)
    assert refusal(sound, str(path)) == "corrupt audio"


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts"])
def test_whatever_the_damage_there_is_a_plain_refusal_or_a_clip(tmp_path, kind):
    path = write_clip(tmp_path / f"clip.{kind}", seconds=1, **KINDS[kind])
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        data, start = bytearray(whole), draw.integers(len(whole))
        kinds_of_damage = {
            "cut": data[:start],
            "hole": data[:start] + data[start + 500 :],
            "noise": data[:start] + draw.bytes(500) + data[start + 500 :],
            "header": bytes(draw.permuted(np.frombuffer(data[:600], np.uint8))) + data[600:],
        }
        path.write_bytes(kinds_of_damage[draw.choice(list(kinds_of_damage))])
        for read in (probe, sound, lambda path: frames(path, [0.0, 0.5])):
            with contextlib.suppress(BadClip):
                read(str(path))


def test_an_unknown_codec_is_named(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert refusal(probe, str(path)) == "no decoder for its video"
    assert refusal(frames, str(path), [0.0]) == "no decoder for its video"


def test_files_that_cannot_be_opened(tmp_path):
    assert refusal(probe, str(tmp_path / "none.mp4")) == "no such file or directory"
    assert refusal(probe, str(tmp_path)) == "is a directory"


def test_nothing_reaches_the_terminal(tmp_path, capfd, caplog):
    path = overwrite(write_clip(tmp_path / "a.mkv"), 0.5, 2000)
    for read in (probe, sound, lambda path: frames(path, [0.0, 4.0])):
        with contextlib.suppress(BadClip):
            read(str(path))
    with caplog.at_level(logging.DEBUG):
        refusal(probe, str(truncate(path, 0.02)))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
