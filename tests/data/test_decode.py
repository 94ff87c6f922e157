"""Decoding: the picture of the right moment, the sound in mono at 16 kHz, and why a file cannot be used."""

import contextlib
import logging
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.material import (
    KINDS,
    overwrite,
    quarters,
    refusal,
    rotate,
    sine,
    snow,
    told,
    truncate,
    write_album,
    write_clip,
)

from avcl.data.decode import RATE, frames, probe, sound
from avcl.errors import BadClip


def pitch(wave):
    """The loudest frequency in Hz, and the peak loudness."""
    spectrum = np.abs(np.fft.rfft(wave.numpy() * np.hanning(len(wave))))
    return spectrum.argmax() * RATE / len(wave), wave.abs().max().item()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Five seconds of a clock and a tone, one key frame at the start, frames stored out of order."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", coding={"g": "250", "bf": "3"}, rate=48000)


def one_after_another(folder, first, second):
    """Two streams of one file."""
    parts = [write_clip(folder / f"{number}.ts", **how) for number, how in enumerate((first, second))]
    (folder / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    return str(folder / "both.ts")


# ---- pictures ----
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_those_shown_at_the_times_and_sound_is_mono_at_16_khz(tmp_path, kind):
    path = write_clip(tmp_path / f"clip.{kind}", **KINDS[kind])
    if kind in ("mp4", "mov", "mkv", "webm"):
        # 25 frames a second: at 0.5 s the one that began at 0.48 s is shown
        assert told(path, [0, 0.5, 1.0, 2.51, 4.9]) == [0, 0.48, 1.0, 2.48, 4.88]
        assert told(path, [2.0, 3.0, 4.0]) == [2.0, 3.0, 4.0]  # entered in the middle
    else:  # to a frame: there the sound begins first, by what its encoder needs, and with it the file
        for times in ([0, 0.5, 1, 2.5, 4.9], [2, 3, 4], [4.5]):
            assert np.allclose(told(path, times), times, atol=0.08)
    wave = sound(str(path))
    assert wave.dtype == torch.float32
    assert abs(len(wave) - 5 * RATE) < 0.05 * RATE
    hertz, loudness = pitch(wave[RATE : 3 * RATE])
    assert hertz == pytest.approx(440, abs=1)
    assert loudness == pytest.approx(0.5, abs=0.03)  # both channels alike: their average is either


@pytest.mark.parametrize("keys", [10, 250])
def test_seeking_and_reading_through_agree(tmp_path, keys):
    path = write_clip(tmp_path / "clip.mp4", coding={"g": str(keys), "bf": "2"})
    every = [k / 8 for k in range(40)]
    through = frames(str(path), every)
    for k in range(40):
        assert torch.equal(frames(str(path), every[k : k + 1]), through[k : k + 1])


@pytest.mark.parametrize(
    ("name", "stamps", "times", "shown"),
    [
        *(
            (n, [0, 0.1, 0.5, 2, 2.1, 4.9], [0, 0.3, 1.99, 2.05, 3, 4.95], [0, 0.1, 0.5, 2, 2.1, 4.9])
            for n in ("a.mp4", "a.mkv")
        ),
        ("late.mkv", [1 + k / 25 for k in range(100)], [0, 0.9, 1.5], [1, 1, 1.48]),  # before the first frame: that
    ],
)
def test_uneven_and_late_frames_are_found_by_their_time_stamps(tmp_path, name, stamps, times, shown):
    assert told(write_clip(tmp_path / name, times=stamps), times) == shown


def test_colours_places_and_a_picture_held_sideways_which_is_turned_upright(tmp_path):
    path = write_clip(tmp_path / "phone.mp4", paint=quarters, size=(64, 48))
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    for turn, size, corners in (
        (Path, (48, 64), {(12, 16): red, (36, 16): green, (12, 48): blue, (36, 48): white}),
        (rotate, (64, 48), {(16, 36): red, (16, 12): green}),  # red was above on the left, is now on the right
    ):
        picture = frames(str(turn(path)), [1.0])[0]
        assert (picture.shape, picture.dtype) == ((3, *size), torch.uint8)
        for (row, column), colour in corners.items():
            assert np.allclose(picture[:, row, column], colour, atol=6)


def test_a_size_that_changes_midway_is_refused(tmp_path):
    later = {"times": [2 + k / 25 for k in range(50)], "size": (64, 64), "audio": None}
    both = one_after_another(tmp_path, {"seconds": 2}, later)
    assert refusal(frames, both, [0.5, 3.5]) == "the picture changes its size midway"


# ---- sound ----


def test_16_khz_mono_comes_through_untouched_and_the_first_of_two_tracks_counts(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, 2 * RATE).astype(np.float32)
    how = {
        "seconds": 2,
        "audio": "pcm_s16le",
        "rate": RATE,
        "layout": "mono",
        "tracks": [{0: noise}, {0: sine(2, RATE)}],
    }
    assert np.allclose(sound(str(write_clip(tmp_path / "a.mkv", **how))), noise, atol=1 / 2**15)


@pytest.mark.parametrize(
    ("layout", "channel", "share"),
    [
        ("stereo", 0, 1 / 2),
        ("stereo", 1, 1 / 2),
        # centre 1, front sqrt(1/2), back 1/2, low frequencies none; divided by their sum, 2 + sqrt(2)
        ("5.1", 0, 0.5**0.5 / (2 + 2**0.5)),
        ("5.1", 2, 1 / (2 + 2**0.5)),
        ("5.1", 5, 0.5 / (2 + 2**0.5)),
    ],
)
def test_channels_are_averaged_by_ffmpegs_weights(tmp_path, layout, channel, share):
    tone = sine(2, 48000, loudness=0.8)
    path = write_clip(tmp_path / "a.mkv", seconds=2, audio="flac", rate=48000, layout=layout, tracks=[{channel: tone}])
    assert sound(str(path))[4000:-4000].abs().max().item() == pytest.approx(0.8 * share, rel=0.01)


def test_a_part_equals_that_part_of_the_whole_and_after_the_end_there_is_none(clip):
    whole = sound(str(clip))
    assert torch.equal(sound(str(clip), 1.5, 2.0), whole[24000:56000])
    assert torch.equal(sound(str(clip), seconds=3.3), whole[:52800])
    assert torch.equal(sound(str(clip), 4.0, 100.0), whole[64000:])
    assert refusal(sound, str(clip), 7.0) == "no sound at 7.0 s"
    assert told(clip, [4.99, 5.05]) == [4.96, 4.96]  # the last frame stands for a moment
    assert refusal(frames, str(clip), [4.0, 5.5]) == "no picture at 5.5 s"


def test_sound_that_begins_late_has_silence_before_it(tmp_path):
    one, late = write_clip(tmp_path / "a.ts", audio=None), tmp_path / "late.mkv"
    with av.open(str(one)) as source, av.open(str(late), "w") as target:  # remuxed, with sound from 2 s on
        pictures = target.add_stream_from_template(source.streams.video[0])
        wave = target.add_stream("pcm_s16le", rate=RATE, layout="mono")
        begin = source.streams.video[0].start_time
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, pictures
                target.mux(packet)
        tone = (sine(3, RATE) * 2**15).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 2 * RATE
        target.mux(wave.encode(frame) + wave.encode(None))
    heard = sound(str(late))
    assert abs(len(heard) - 5 * RATE) < 0.1 * RATE
    assert np.flatnonzero(heard)[0] == pytest.approx(2 * RATE, abs=0.05 * RATE)


def test_a_format_that_changes_midway_is_followed(tmp_path):
    formats = ({"seconds": 2, "layout": "stereo", "rate": 44100}, {"seconds": 2, "layout": "mono", "rate": 48000})
    wave = sound(one_after_another(tmp_path, *formats))
    assert abs(len(wave) - 4 * RATE) < 0.1 * RATE
    assert pitch(wave[:30000])[0] == pytest.approx(440, abs=1)
    assert pitch(wave[-30000:])[0] == pytest.approx(440, abs=1)


def test_silence_is_refused(tmp_path):  # that of AAC: tests/data/test_check.py
    path = write_clip(tmp_path / "silent.webm", tracks=[{0: np.zeros(240000, np.float32)}], **KINDS["webm"])
    assert refusal(sound, str(path)) == "silent"


# ---- names, sizes ----
def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_clip(tmp_path / "a.mp4", seconds=1)
    for name in ("http:a.mp4", "-i.mp4", "frame%03d.mp4", os.fsdecode(b"caf\xe9.mp4")):
        path = path.rename(tmp_path / name)
        assert probe(name).video == pytest.approx(1.0)
        assert told(name, [0.5]) == [0.48]
        assert refusal(frames, name, [9.0]) == "no picture at 9.0 s"


def test_a_title_in_an_unknown_encoding_does_no_harm(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=1, title="QQQQ")
    content = path.read_bytes()
    assert content.count(b"QQQQ") == 1
    path.write_bytes(content.replace(b"QQQQ", b"\xe9\xff\xfeQ"))
    assert probe(str(path)).video == pytest.approx(1.0)


def test_what_a_probe_tells_and_that_it_reads_no_further_than_asked(tmp_path, clip):
    found = probe(str(clip))
    assert (found.width, found.height, found.fps, found.rate, found.channels) == (128, 96, 25.0, 48000, 2)
    assert found.video == pytest.approx(5.0, abs=0.05)
    assert found.audio == pytest.approx(5.0, abs=0.05)
    path = write_clip(tmp_path / "long.mkv", seconds=30, fps=2)
    assert probe(str(path)).video == pytest.approx(30, abs=0.5)
    assert 10 <= probe(str(path), until=10).video <= 12


# ---- damage: a plain word about each file, and nothing else ----
def test_a_missing_stream_is_named(tmp_path):  # by probe: tests/data/test_check.py
    assert refusal(sound, str(write_clip(tmp_path / "deaf.mp4", audio=None))) == "no audio stream"
    for path in (write_clip(tmp_path / "blind.mp4", video=None), write_album(tmp_path / "album.mp4")):
        assert refusal(frames, str(path), [0.0]) == "no video stream"


def test_files_that_cannot_be_opened_are_named_in_bytes_that_can_be_printed(tmp_path):
    assert refusal(probe, str(tmp_path)) == "is a directory"
    with pytest.raises(BadClip) as bad:
        probe(os.fsdecode(b"caf\xe9.mp4"))
    assert str(bad.value).encode() == "caf\ufffd.mp4: no such file or directory".encode()


def test_files_that_are_none(tmp_path):
    path = tmp_path / "clip.mp4"
    for content, reason in [
        (b"", "empty file"),
        (b"This is not a video.\n" * 50, "not a media file"),
        (b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n", "not a media file"),
        (b"\x00\x00\x00\x20ftypisom", "truncated"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "truncated"),
    ]:
        path.write_bytes(content)
        for read, *how in ([probe], [frames, [0.0]], [sound]):
            assert refusal(read, str(path), *how) == reason


@pytest.mark.parametrize(
    ("name", "muxing", "shows"),
    [
        ("a.mov", {}, True),
        ("a.mp4", {"movflags": "faststart"}, True),
        ("a.mkv", {}, True),
        ("a.ts", {}, False),  # these never said their length: just shorter
        ("a.mp4", {"movflags": "frag_keyframe+empty_moov"}, False),
    ],
)
def test_a_broken_download_shows_without_decoding(tmp_path, name, muxing, shows):
    path = write_clip(tmp_path / name, seconds=8, muxing=muxing, coding={"g": "25"})
    whole = probe(str(path))
    assert not shows or (whole.video, whole.audio) == pytest.approx((8.0, 8.0), abs=0.1)
    for share in (0.85, 0.5, 0.03) if shows else ():
        assert refusal(probe, str(truncate(path, share))).startswith("truncated")
    if not shows:
        assert probe(str(truncate(path, 0.5))).video == pytest.approx(4, abs=1)


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
    path = overwrite(write_clip(tmp_path / "a.mp4", video=None), 0.4, 4000)
    assert probe(str(path)).audio == pytest.approx(5.0, abs=0.1)
    assert refusal(sound, str(path)) == "corrupt audio"


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts"])
def test_whatever_the_damage_there_is_a_plain_refusal_or_a_clip(tmp_path, capfd, caplog, kind):
    """And nothing reaches the terminal or the log."""
    caplog.set_level(logging.DEBUG)
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
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
