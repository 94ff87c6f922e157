"""Clips that cost too much, or are none: refused in one line and counted, by the commands as users type them."""

import contextlib
import json
import os
import zlib

import av
import numpy as np
import pytest
from helpers.material import quarters, refusal, write_clip
from helpers.miniature import SMALL, place
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.data.bounds import Bounds
from avcl.data.decode import DEFAULT, frames, probe, sound
from avcl.data.extracted import Extracted
from avcl.data.fingerprint import digest


def png(path, side):
    """A picture of many pixels in few bytes: all of one colour."""
    rows = zlib.compressobj(9)
    line = bytes(1 + (side + 7) // 8)
    data = b"".join([*(rows.compress(line) for _ in range(side)), rows.flush()])
    chunks = [(b"IHDR", side.to_bytes(4, "big") * 2 + b"\1\0\0\0\0"), (b"IDAT", data), (b"IEND", b"")]
    whole = b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + whole)
    return path


def large(path):
    return write_clip(path, times=[0.0, 1.0, 1.9], size=(6000, 6000), paint=quarters, coding={"preset": "ultrafast"})


def fifo(path):
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n"
DASH = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><BaseURL>{good}</BaseURL>'
NONE = "not a media file"
CASES = {
    "picture.mp4": (lambda path, good: png(path, 14_000), NONE),
    "large.mp4": (lambda path, good: large(path), "6000 x 6000 pixels, more than 33,177,600"),
    "endless.mp4": (lambda path, good: path.symlink_to("/dev/zero"), "not a file"),
    "pipe.mp4": (lambda path, good: fifo(path), "not a file"),
    "concat.mp4": (lambda path, good: path.write_text(f"ffconcat version 1.0\nfile '{good}'\n"), NONE),
    "hls.mp4": (lambda path, good: path.write_text(HLS.format(good=good)), NONE),
    "sdp.mp4": (lambda path, good: path.write_text(SDP), NONE),
    "dash.mp4": (lambda path, good: path.write_text(DASH.format(good=good) + "</Period></MPD>"), NONE),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six good clips and, in training, all of the others."""
    top = tmp_path_factory.mktemp("bounds")
    good = write_clip(top / "good.mp4", seconds=2, size=(64, 48))
    folder = top / "root" / "train" / "task" / "class"
    for number in range(6):
        place(good, folder / f"good {number}.mp4")
    place(good, top / "root" / "eval" / "task" / "class" / "good.mp4")
    for name, (make, _) in CASES.items():
        make(folder / name, good)
    return top / "root"


def avcl(root, tmp_path, *words, **settings):
    scenario = {"name": "folder", "root": str(root), "max_bad_share": 0.7, **SMALL, **settings}
    run = {
        "scenario": scenario,
        "backbone": {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1},
        "strategy": "finetune",
        "learner": {"epochs": 1, "batch_size": 2, "max_bad_share": 0.7},
        "out": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    return CliRunner().invoke(app, [*words[:-1], str(tmp_path / "run.yaml"), *words[-1]])


def test_each_is_refused_in_one_line_and_counted_by_check_prepare_and_train(root, tmp_path, caplog):
    done = avcl(root, tmp_path, "data", "check", ["--out", str(tmp_path / "clips.json")])
    assert done.exit_code == 0, done.output
    clips = {
        clip["name"].rpartition("/")[2]: clip for clip in json.loads((tmp_path / "clips.json").read_text())["clips"]
    }
    told = {name: (clips[name]["state"], clips[name]["reason"]) for name in CASES}
    assert told == {name: ("corrupt", reason) for name, (_, reason) in CASES.items()}
    assert sum(clip["state"] == "usable" for clip in clips.values()) == 7
    assert avcl(root, tmp_path, "data", "prepare", ["--out", str(tmp_path / "store"), "--workers", "1"]).exit_code == 0
    rows = json.loads((tmp_path / "store" / "store.json").read_text())["quarantined"]
    assert {row["name"].rpartition("/")[2]: row["reason"] for row in rows} == {k: why for k, (_, why) in CASES.items()}
    caplog.clear()
    assert avcl(root, tmp_path, "train", []).exit_code == 0
    bad = json.loads((tmp_path / "run" / "results.json").read_text())["bad_clips"]
    assert {path.rpartition("/")[2]: why for path, why in bad.items()} == {k: why for k, (_, why) in CASES.items()}
    for path, why in bad.items():
        assert f"skipped {path}: {why}" in caplog.messages


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_pixels": 64 * 48 - 1}, "64 x 48 pixels, more than 3,071"),
        ({"max_bytes": 1000}, "bytes, more than 1,000"),
        ({"max_seconds": 1.5}, "lasts 2 s, more than 1.5 s"),
        ({"max_decode_seconds": 1e-6}, "takes more than 1e-06 s to decode"),
    ],
)
def test_the_bounds_are_settings(root, tmp_path, settings, reason):
    done = avcl(root, tmp_path, "data", "check", ["--out", str(tmp_path / "clips.json")], **settings)
    assert done.exit_code == 0, done.output
    clips = json.loads((tmp_path / "clips.json").read_text())["clips"]
    (why,) = {clip["reason"] for clip in clips if "good" in clip["name"]}
    assert why.endswith(reason)


def test_a_size_beyond_the_bounds_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "both.ts"
    with path.open("wb") as both:
        for side, begin in ((64, 0), (256, 2)):
            times = [begin + k / 25 for k in range(50)]
            both.write(write_clip(tmp_path / "part.ts", times=times, size=(side, side), audio=None).read_bytes())
    assert len(frames(str(path), [0.0, 0.5])) == 2
    assert refusal(frames, str(path), [0.0, 3.5]) == "the picture changes its size midway"
    assert refusal(frames, str(path), [3.5], Bounds(pixels=64 * 64)) in ("corrupt video", "no picture at 3.5 s")


def test_nothing_else_is_read_by_way_of_a_media_file(tmp_path, monkeypatch):
    """Every kind of list or protocol that FFmpeg knows, and a name that is one."""
    good = write_clip(tmp_path / "good.mp4", seconds=1)
    monkeypatch.chdir(tmp_path)
    texts = [make for make, reason in CASES.values() if reason == NONE]
    for number, make in enumerate(texts[1:]):
        make(tmp_path / f"{number}.mkv", good)
        with contextlib.suppress(av.error.FFmpegError):  # without our options some of them are followed
            av.open(str(tmp_path / f"{number}.mkv")).close()
        for read, *how in ([probe], [frames, [0.0]], [sound]):
            assert refusal(read, str(tmp_path / f"{number}.mkv"), *how) == NONE
    for name in ("concat:good.mp4", "subfile,,start,0,end,0,,:good.mp4", "file:good.mp4", "data:video/mp4;base64,AAAA"):
        assert refusal(probe, name) == "no such file or directory"


def test_pictures_that_were_taken_out_have_the_same_bounds(tmp_path):
    audio = write_clip(tmp_path / "sound.wav", video=None, audio="pcm_s16le")
    clip = Extracted(str(tmp_path / "frame_*.png"), 0, 0, 0, "abc", audio=str(audio))
    assert png(tmp_path / "frame_0.png", 14_000).stat().st_size < 32_000
    assert refusal(clip.pictures, [0.0]) == "more than 33,177,600 pixels"
    png(tmp_path / "frame_0.png", 6_000)
    assert refusal(clip.pictures, [0.0]) == "6000 x 6000 pixels, more than 33,177,600"
    for target in ("/dev/zero", str(tmp_path / "pipe")):
        (tmp_path / "frame_0.png").unlink()
        (tmp_path / "frame_0.png").symlink_to(target)
        if not os.path.exists(target):
            os.mkfifo(target)
        assert refusal(clip.pictures, [0.0]) == "not a file"
        assert digest([str(tmp_path / "frame_0.png")]) == ""
    (tmp_path / "frame_0.png").unlink()
    (tmp_path / "frame_0.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n")
    assert refusal(clip.pictures, [0.0]) == "corrupt picture"


def test_the_clock_counts_work_and_not_waiting():
    with_sleep = Bounds(decode_seconds=1e9).timed("a", range(3))
    assert list(with_sleep) == [0, 1, 2]
    assert refusal(lambda: list(Bounds(decode_seconds=1e-9).timed("a", map(np.ones, [10**6] * 3)))).startswith("takes")
    assert Bounds() == DEFAULT
