"""AVSBench in its published layout: what is read, which frames have masks, that crops are the frames' own."""

import json

import pytest
import torch
from helpers.avsbench import SMALL, avsbench, box
from helpers.material import assert_alike
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.errors import BadClip, SettingsError
from avcl.evaluation.mask_scores import mask_iou
from avcl.scenario import augmenting, truth_of
from avcl.scenarios.avsbench import AvsBench


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return avsbench(tmp_path_factory.mktemp("avsbench"))


@pytest.fixture
def root(tmp_path):
    """A copy to spoil."""
    return avsbench(tmp_path / "avsbench", {"train": 2, "val": 1, "test": 1})


def scenario(root, **settings):
    return AvsBench(root=str(root), **SMALL | settings)


def mistake(root, **settings):
    with pytest.raises(SettingsError) as wrong:
        scenario(root, **settings)
    return str(wrong.value)


def red(item):
    """Where the red of normalised frames (T, 3, H, W) is on."""
    return item["frames"][:, 0] * 0.229 + 0.485 > 0.5


def test_reads_the_published_layout(published):
    stream = scenario(published)
    assert stream.task_names == ("s4",) and stream.class_names == ("lions_roaring", "race_car")
    train, test = stream.clips(0, "train"), stream.clips(0, "eval")
    assert (len(train), len(test), len(stream.validation_clips())) == (6, 3, 2)
    assert test.sources[0].name == "test/lions_roaring/-vid_000008"
    item = test[1]
    assert item["frames"].shape == (5, 3, 32, 32) and item["mel"].shape == (1, 128, 32)
    assert (item["label"], item["task"], item["index"]) == (1, 0, 9)
    indices = [clips[i]["index"] for clips in (train, test, stream.validation_clips()) for i in range(len(clips))]
    assert len(set(indices)) == 11
    other = scenario(published, evaluate_on="val")
    assert len(other.clips(0, "eval")) == 2 and other.validation_clips() is None


def test_masks_are_those_of_the_files(published):
    stream = scenario(published)
    truth = stream.clips(0, "eval").truth(0)
    expected = torch.stack([torch.from_numpy(box(8, second)) for second in range(5)])
    assert truth.mask.shape == (5, 32, 32) and truth.labelled.all()
    # half the size, by way of that of stores: edges may move by a pixel
    assert mask_iou(truth.mask.float(), expected[:, ::2, ::2]).min() > 0.8
    assert torch.equal(truth.mask, red(stream.clips(0, "eval")[0]))
    assert truth.interval == (0, 128)
    first = stream.clips(0, "train").truth(0)
    assert first.labelled.tolist() == [True, False, False, False, False]
    assert first.mask[0].any() and not first.mask[1:].any()


def test_masks_are_cropped_as_their_frames(published):
    """The frames are red where the mask is: whatever the crop, both must say the same. The authors' code crops one."""
    clips, sizes = scenario(published).clips(0, "train"), set()
    whole = truth_of(clips)(2).mask[0].sum()
    for epoch in range(12):
        with augmenting(0, epoch):
            item, mask = clips[2], clips.truth(2).mask[0]
        assert torch.equal(red(item)[0], mask)
        sizes.add(int(mask.sum()))
    assert len(sizes) > 3 and max(sizes) > whole


def test_check_counts_and_prepare_keeps_the_frames(published, tmp_path):
    run, report = tmp_path / "run.yaml", tmp_path / "report.json"
    settings = {"name": "avsbench", "root": str(published), **SMALL}
    run.write_text(json.dumps({"scenario": settings}))
    done = CliRunner().invoke(app, ["data", "check", str(run), "--out", str(report)])
    assert done.exit_code == 0, done.output
    assert [clip["state"] for clip in json.loads(report.read_text())["clips"]] == ["usable"] * 9
    store = tmp_path / "store"
    words = ["data", "prepare", str(run), "--out", str(store), "--rate", "1", "--codec", "png", "--workers", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    plain, stored = scenario(published), scenario(published, store=str(store))
    assert_alike(plain.clips(0, "eval"), stored.clips(0, "eval"))
    assert torch.equal(plain.clips(0, "eval").truth(1).mask, stored.clips(0, "eval").truth(1).mask)


def test_what_is_missing_is_counted_or_said(root):
    for path in (root / "s4_data" / "visual_frames" / "train").glob("*/*/*_1.png"):
        path.unlink()
        break
    assert [(one.split, one.reason) for one in scenario(root).absent] == [("train", "missing")]
    for path in (root / "s4_data" / "gt_masks" / "test").glob("*/*/*_2.png"):
        path.write_bytes(b"\x89PNG broken")
    with pytest.raises(BadClip, match=r"gt_masks.*: corrupt picture"):
        scenario(root).clips(0, "eval").truth(0)
    for path in (root / "s4_data" / "gt_masks" / "test").glob("*/*/*.png"):
        path.unlink()
    with pytest.raises(BadClip, match="no such mask"):
        scenario(root).clips(0, "eval").truth(0)


def test_a_list_that_is_none(root, tmp_path):
    assert "no s4_meta_data.csv in" in mistake(tmp_path)
    meta = root / "s4_meta_data.csv"
    meta.write_text("name,start,category,split\na,0,dog,train\nb,0,dog\n")
    assert "line 3: 3 cells, not 4" in mistake(root)
    meta.write_text("name,start,category,split\na,0,dog,train\n")
    assert "has no clip of 'test'" in mistake(root)
    meta.write_text("id;category;split\n")
    assert "no column 'category' and 'split'; must begin with a line such as name,start,category,split" in mistake(root)
