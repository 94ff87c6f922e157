"""Lists as datasets publish them, and what becomes of bad ones."""

import json

import numpy as np
import pytest
import torch
from helpers.material import refusal, sine, write_clip
from PIL import Image

from avcl.data.decode import sound
from avcl.data.extracted import Extracted
from avcl.data.lists import Row, label_names, read_list
from avcl.data.lists.row import stems_of
from avcl.errors import UserError

VGGSOUND = '---g-f_I2yQ,1,"people marching",test\n--0PQM4-hqg,30,"waterfall burbling",train\n'
RELEASED = 'glLQrEijrKg_000300.mp4,playing hammond organ\n0_8-g2rof7E_000049.mp4,"heart sounds, heartbeat"\n'
AUDIOSET = '# Segments csv created\n# YTID, start_seconds\n--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'


def rows(path, text, **writing):
    path.write_text(text, newline="", **writing)
    return list(read_list(path, path.parent))


def test_vggsound(tmp_path):
    one, two = rows(tmp_path / "vggsound.csv", VGGSOUND)
    assert (one.name, one.labels, one.split) == ("---g-f_I2yQ_000001", ("people marching",), "eval")
    assert (two.name, two.split) == ("--0PQM4-hqg_000030", "train")
    for stem in ("000030", "30000", "030000", "30000_40000", "30", "30_40"):
        assert f"--0PQM4-hqg_{stem}" in two.stems
    assert two.stems[0] == "--0PQM4-hqg_000030"


def test_the_test_list_that_vggsound_released(tmp_path):
    one, two, *bad = rows(tmp_path / "test.csv", RELEASED + "x.mp4,skiing\nglLQrEijrKg_000300.mp4,\nx,1,skiing\n")
    assert (one.name, one.labels, one.split) == ("glLQrEijrKg_000300", ("playing hammond organ",), None)
    assert (two.labels, two.stems[:2]) == (
        ("heart sounds, heartbeat",),
        ("0_8-g2rof7E_000049", "0_8-g2rof7E_49000_59000"),
    )
    assert [row.reason for row in bad] == [
        "'x.mp4' is no <id>_<seconds in 6 digits>.mp4",
        "no label",
        "3 columns, not 2: id_seconds.mp4, label",
    ]
    assert rows(tmp_path / "bare.csv", RELEASED.replace(".mp4", "")) == [one, two]


@pytest.mark.parametrize(
    ("names", "file"),
    [
        (["0_8-g2rof7E_000049"], "0_8-g2rof7E_000049"),
        (["0_8-g2rof7E_49000_59000"], "0_8-g2rof7E_000049"),
        (["0_8-g2rof7E_0_10000"], "0_8-g2rof7E_000000"),
        (["0_8-g2rof7E_49_59"], "0_8-g2rof7E_000049"),
        (["0_8-g2rof7E", "0_8-g2rof7E_49.000"], "0_8-g2rof7E_000049"),
        (["0_8-g2rof7E"], "0_8-g2rof7E_*"),
        (["a", "0_8-g2rof7E_1.2.3", "0_8-g2rof7E_49"], None),
    ],
)
def test_names_that_say_the_seconds_of_a_video(names, file):
    assert next(iter(stems_of(*names)), None) == file


def test_audioset(tmp_path):
    (row,) = rows(tmp_path / "eval_segments.csv", AUDIOSET)
    assert row.labels == ("/m/09x0r", "/t/dd00088")
    assert row.split is None
    assert {"--PJHxphWEs_30000_40000", "Y--PJHxphWEs_30.000_40.000"} <= set(row.stems)
    assert not {"--PJHxphWEs", "Y--PJHxphWEs"} & set(row.stems)  # maybe all of the video, not these seconds


def test_cav_mae(tmp_path):
    good = {"video_id": "abc", "wav": "wav/abc.wav", "video_path": "frames", "labels": "vgg_1,vgg_2"}
    bad = {key: value for key, value in good.items() if key != "wav"}
    one, two, three = rows(tmp_path / "train.json", json.dumps({"data": [good, bad, "abc"]}))
    assert one.pictures == str(tmp_path / "frames" / "frame_*" / "abc.jpg")
    assert (one.audio, one.rate, one.labels) == (str(tmp_path / "wav/abc.wav"), 1.0, ("vgg_1", "vgg_2"))
    assert str(two) == f"{tmp_path}/train.json:data[1]: no wav"
    assert three.reason == "no video_id and no wav and no video_path and no labels"


def test_stella(tmp_path):
    text = '0,abc,vggsound/data/frames/abc_1_2,vggsound/data/audio/abc.mp3,"/m/1,/m/2",sports\n'
    (row,) = rows(tmp_path / "train.csv", text)
    assert row.pictures == str(tmp_path / "vggsound/data/frames/abc_1_2/frame_*.jpg")
    assert row.labels == ("/m/1", "/m/2")
    assert row.rate == 8.0


@pytest.mark.parametrize("text", [VGGSOUND.replace("\n", "\r\n"), "\ufeff" + VGGSOUND, "\n\n" + VGGSOUND + "\n\n"])
def test_line_ends_marks_and_empty_lines_change_nothing(tmp_path, text):
    assert rows(tmp_path / "a.csv", text, encoding="utf-8") == rows(tmp_path / "b.csv", VGGSOUND)


def test_a_bad_row_is_named_and_the_rest_read(tmp_path):
    text = VGGSOUND + 'x,soon,"skiing",train\ny,1,"skiing"\nz,1,"skiing",dev\n,1,"skiing",train\n'
    found = rows(tmp_path / "list.csv", text)
    assert [type(row) for row in found[:2]] == [Row, Row]
    assert [str(row).removeprefix(f"{tmp_path}/") for row in found[2:]] == [
        "list.csv:3: start 'soon' is no number of seconds",
        "list.csv:4: 3 columns, not 4: id, start, label, split",
        "list.csv:5: split 'dev' is neither train nor test",
        "list.csv:6: no id or no label",
    ]
    for start in ("inf", "-inf", "nan", "1e308"):
        bad = rows(tmp_path / "a.csv", f'{VGGSOUND}x,{start},"skiing",train\n')[2]
        assert bad.reason == f"start {start!r} is no number of seconds"
        bad = rows(tmp_path / "b.csv", f'{AUDIOSET}x, 0.000, {start}, "/m/09x0r"\n')[1]
        assert bad.reason == f"'0.000' to {start!r} are no numbers of seconds"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"[" * 100_000, "a.json: cannot be read: maximum recursion depth exceeded"),
        ("a.json", b"[" + b"1" * 5000, "a.json: cannot be read: Exceeds the limit (4300 digits)"),
        ("a.csv", b'x,1,"skiing"\n', "has 3 columns, and is no list that can be read; those are CAV-MAE's"),
        ("a.csv", b"", "is empty, and is no list that can be read"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read as a CSV file"),
        ("a.json", b'{"data": [}', "a.json:1:11: not valid JSON: Expecting value"),
        ("a.json", b'{"data": []}', "no clips in it"),
        ("a.json", b"[1]", "no clips in it"),
        ("a.csv", None, "no such file"),
        ("a.json", None, "no such file"),
    ],
)
def test_a_list_that_cannot_be_read_ends_in_one_line(tmp_path, name, content, told):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_list(path, tmp_path))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_label_names(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text('index,mid,display_name\r\n0,/m/09x0r,"Speech"\r\n1,/m/1,"Bee, wasp, etc."\r\n')
    assert label_names(path) == {"/m/09x0r": "Speech", "/m/1": "Bee, wasp, etc."}
    path.write_text("index,display_name\n0,Speech\n")
    with pytest.raises(UserError, match=r"labels.csv: has no column 'mid'; its first line should be index,mid,display"):
        label_names(path)


@pytest.fixture
def taken_apart(tmp_path):
    """Twenty pictures at 8 a second, each as grey as its number, and 2.5 s of sound."""
    for number in range(20):
        Image.new("RGB", (48, 32), (number,) * 3).save(tmp_path / f"frame_{number}.png")
    audio = write_clip(tmp_path / "sound.wav", video=None, audio="pcm_s16le", seconds=2.5, rate=16000, layout="mono")
    return Extracted(str(tmp_path / "frame_*.png"), 0, 0, 0, "abc", audio=str(audio), rate=8.0)


def test_a_clip_that_was_taken_apart(taken_apart):
    found = taken_apart.probe(10.0)
    assert (found.video, found.audio) == (2.5, pytest.approx(2.5, abs=0.05))
    pictures = taken_apart.pictures([0.0, 0.12, 0.125, 1.0])
    assert (pictures.shape, pictures[:, 0, 0, 0].tolist()) == ((4, 3, 32, 48), [0, 0, 1, 8])
    assert torch.equal(taken_apart.sound(1.0), sound(taken_apart.audio, seconds=1.0))
    assert np.allclose(taken_apart.sound(1.0), sine(1.0, 16000), atol=2e-4)
    assert len(taken_apart.files) == 21


def test_pictures_that_cannot_be_used(taken_apart, tmp_path):
    assert refusal(taken_apart.pictures, [9.0]) == "no such picture"
    (tmp_path / "frame_3.png").write_bytes(b"\x89PNG broken")
    assert refusal(taken_apart.pictures, [3 / 8]) == "corrupt picture"
    Image.new("RGB", (32, 32)).save(tmp_path / "frame_4.png")
    assert refusal(taken_apart.pictures, [0.25, 0.5]) == "the picture changes its size midway"
    (tmp_path / "frame_0.png").unlink()
    assert taken_apart.probe(10.0).video is None
