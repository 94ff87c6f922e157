"""``avcl data prepare`` and ``merge``: what a store reads is what the files read, and it is whole or refused."""

import importlib
import json
import os
import shutil

import pytest
import torch
from helpers.material import assert_alike, truncate, write_clip
from helpers.miniature import SMALL, same
from helpers.miniature import of_videos as scenario
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.data.store.format import Store
from avcl.data.store.prepare import merge_parts, pre_decode
from avcl.data.store.write import keep, shard_path
from avcl.errors import SettingsError, UserError
from avcl.scenario import augmenting


@pytest.fixture(scope="module")
def lossless(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "png"
    told = list(pre_decode(scenario(root), folder, codec="png", per_shard=3))
    assert told[-1].startswith(f"{folder}: complete, 16 clips, 0.")
    assert sorted(told[1:-1]) == [
        f"1 of 16 clips cannot be decoded: {why}" for why in ("no audio stream", "silent", "truncated")
    ]
    return folder


# ---- reading ----
@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_lossless_store_reads_as_the_files_do(root, lossless, split, task):
    files, stored = scenario(root), scenario("nowhere", store=str(lossless))
    assert stored.task_names == files.task_names
    assert stored.fingerprint == files.fingerprint
    assert [bad.reason for bad in stored.refused] == [bad.reason for bad in files.refused]
    assert_alike(files.clips(task, split), stored.clips(task, split))
    for epoch in (0, 1):
        with augmenting(seed=1, epoch=epoch):
            assert_alike(files.clips(task, split), stored.clips(task, split))


def test_jpeg_is_near(root, lossless, tmp_path):
    list(pre_decode(scenario(root), tmp_path / "jpeg", quality=90))
    near, exact = (scenario("no", store=str(store)).clips(1, "train")[0] for store in (tmp_path / "jpeg", lossless))
    assert torch.equal(near["mel"], exact["mel"])
    assert 0 < (near["frames"] - exact["frames"]).abs().mean() < 0.2


def test_a_store_says_what_it_quarantined_and_hugging_face_opens_it(lossless):
    facts = json.loads((lossless / "store.json").read_text())
    assert {row["name"]: row["reason"] for row in facts["quarantined"]} == {
        "birds/near/clip 1.mp4": "silent",
        "birds/near/clip 2.mp4": "truncated",
        "trains/near/clip 3.mp4": "no audio stream",
    }
    table = importlib.import_module("datasets").load_from_disk(str(lossless))
    assert (len(table), table[0]["task"]) == (16, "birds")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"store": "nowhere"}, "'nowhere' is no prepared store"),
        ({"height": 64, "width": 64}, "its frames are 37 x 37; must be 73 x 73 for height and width"),
        ({"seconds": 5}, "has 2 seconds of every clip; seconds asks for 5"),
        ({"frames": 3}, "has 8 frames a second; frames and window need 24: prepare with --rate 24"),
        ({"window": 0.997}, "no rate has all moments that frames and window ask for; change them, or read the files"),
        ({"eval_share": 0.5}, "was prepared with eval_share = 0.2; 0.5 is asked for: prepare again with it"),
    ],
)
def test_settings_that_do_not_fit_a_store_are_named(root, lossless, settings, told):
    with pytest.raises(SettingsError) as wrong:
        scenario(root, **{"store": str(lossless), **settings})
    assert str(wrong.value) == f"store: {told}"


def test_a_store_is_not_made_of_a_store(root, lossless):
    with pytest.raises(UserError, match=r"scenario.store: a store is made of files"):
        list(pre_decode(scenario(root, store=str(lossless)), "anywhere"))


def test_frames_off_the_usual_grid_read_alike_at_the_rate_that_is_named(root, tmp_path):
    files = scenario(root, frames=3, order=["birds"])
    list(pre_decode(files, tmp_path / "store", codec="png", rate=24))
    stored = scenario("nowhere", frames=3, order=["birds"], store=str(tmp_path / "store"))
    for split in ("train", "eval"):
        assert_alike(files.clips(0, split), stored.clips(0, split))


@pytest.mark.parametrize("content", ["{}", "[1]", "5", "null", '{"form": {"height": 3}, "shards": [], "per_shard": 1}'])
def test_a_damaged_description_is_one_line(lossless, tmp_path, content):
    shutil.copytree(lossless, tmp_path / "store")
    for name in ("store.json", "plan.json"):
        (tmp_path / "store" / name).write_text(content)
    with pytest.raises(UserError, match=r"'.*': its store.json is corrupt; remove that and prepare again$"):
        Store(tmp_path / "store")
    with pytest.raises(UserError, match=r"is no store in the making: it has no plan.json that can be read$"):
        list(merge_parts([tmp_path / "store"], tmp_path / "whole"))


def test_parts_made_of_other_mount_points_merge(root, lossless, tmp_path):
    shutil.copytree(root, tmp_path / "mounted elsewhere")
    for share, place in ((1, root), (2, tmp_path / "mounted elsewhere")):
        list(pre_decode(scenario(place), tmp_path / str(share), codec="png", per_shard=3, share=share, of=2))
    assert "complete, 16 clips" in list(merge_parts([tmp_path / "1", tmp_path / "2"], tmp_path / "whole"))[-1]
    assert scenario("nowhere", store=str(tmp_path / "whole")).fingerprint == scenario(root).fingerprint
    truncate(tmp_path / "mounted elsewhere" / "birds" / "near" / "clip 0.mp4", 0.5)
    with pytest.raises(UserError, match=r"was begun for something else \(other clips\)"):
        list(pre_decode(scenario(tmp_path / "mounted elsewhere"), tmp_path / "1", codec="png", per_shard=3))


def test_lists_are_kept_and_those_outside_are_named(tmp_path, caplog):
    long = "n" * 251 + ".csv"
    for name in (long, "outside.csv"):
        (tmp_path / name).write_text(name)
    keep({long: tmp_path / long, "../outside.csv": tmp_path / "outside.csv"}, tmp_path / "store")
    assert [path.name for path in (tmp_path / "store" / "lists").iterdir()] == [long]
    assert caplog.messages == [
        f"{tmp_path / 'outside.csv'}: is outside of root, and not copied into the store; it must stay where it is"
    ]


def test_names_of_any_bytes(tmp_path):
    root = tmp_path / "root"
    for name in (b"a.mp4", b"\xff.mp4"):
        (root / "task" / "class").mkdir(parents=True, exist_ok=True)
        path = root / "task" / "class" / os.fsdecode(name)
        shutil.move(write_clip(tmp_path / "clip.mp4", seconds=2, size=(64, 48)), path)
    told = list(pre_decode(scenario(root), tmp_path / "store"))
    assert "complete, 2 clips" in told[-1]
    stored = scenario(root, store=str(tmp_path / "store"))
    assert [len(stored.clips(0, split)) for split in ("train", "eval")] == [1, 1]


# ---- never complete when it is not ----
def test_a_store_without_all_its_shards_is_refused(root, lossless, tmp_path):
    folder = tmp_path / "store"
    assert (
        "part 1/2 is finished; 3 of 6 shards are left to other parts; `avcl data merge` joins"
        in list(pre_decode(scenario(root), folder, share=1, of=2, codec="png", per_shard=3))[-1]
    )
    with pytest.raises(SettingsError, match="is not complete; resume with `avcl data prepare`"):
        scenario(root, store=str(folder))
    with pytest.raises(UserError, match=r"3 of 6 shards are missing, the first is 00001.arrow"):
        list(merge_parts([folder], folder))
    list(pre_decode(scenario(root), tmp_path / "other", share=2, of=2, codec="png", per_shard=3))
    assert "complete" in list(merge_parts([folder, tmp_path / "other"], tmp_path / "whole"))[-1]
    assert same(tmp_path / "whole", lossless)
    shard_path(tmp_path / "whole", 4).unlink()
    with pytest.raises(SettingsError, match=r"lacks shards/00004.arrow as it was made"):
        scenario(root, store=str(tmp_path / "whole"))


def test_finished_shards_are_not_made_again(root, tmp_path):
    made = lambda: {path.name: path.stat().st_ino for path in (tmp_path / "store" / "shards").iterdir()}  # noqa: E731
    list(pre_decode(scenario(root), tmp_path / "store", per_shard=4, share=1, of=2))
    before = made()
    rest = next(pre_decode(scenario(root), tmp_path / "store", per_shard=4))
    assert rest.startswith("8 of 16 clips in 2 of 4 shards, ")
    assert (len(before), len(made())) == (2, 4)
    assert before.items() <= made().items()


def test_another_plan_and_a_damaged_shard_are_refused(root, lossless, tmp_path):
    with pytest.raises(UserError, match=r"was begun for something else \(codec png and jpeg, quality 0 and 90\)"):
        list(pre_decode(scenario(root), lossless, per_shard=3))
    list(pre_decode(scenario(root, order=["birds"]), tmp_path / "other", codec="png", per_shard=3, share=1, of=9))
    with pytest.raises(UserError, match=r"is of another plan than .* \(clips 16 and 8, other clips\)"):
        list(merge_parts([lossless, tmp_path / "other"], tmp_path / "whole"))
    with pytest.raises(UserError, match="is no store in the making"):
        list(merge_parts([tmp_path], tmp_path / "whole"))
    list(merge_parts([lossless], tmp_path / "copy"))
    truncate(shard_path(tmp_path / "copy", 0), 0.7)
    with pytest.raises(UserError, match="cannot be read"):
        list(merge_parts([tmp_path / "copy"], tmp_path / "copy"))


def test_the_commands(root, tmp_path):
    file = tmp_path / "mine.yaml"
    settings = {"name": "folder", "root": str(root), "max_bad_share": 0.5, **SMALL}
    file.write_text(json.dumps({"scenario": settings}))

    def ask(*words, code=0):
        done = CliRunner().invoke(app, ["data", *map(str, words)])
        assert done.exit_code == code, done.output
        return done.output

    for part in ("1/2", "2/2"):
        ask("prepare", file, "--out", tmp_path / part[0], "--shard", part, "--workers", 1, "--codec", "png")
    assert "complete, 16 clips" in ask("merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "whole")
    for word, value, told in (
        ("--shard", "3/2", "'3/2': must be I/N, as in 1/8"),
        ("--shard", "²/3", "'²/3': must be I/N, as in 1/8"),
        *(("--rate", rate, f"{float(rate):g}: must be 0.1 to 240 frames per second") for rate in ("inf", "nan", "1e9")),
        ("--codec", "gif", "'gif': must be jpeg or png"),
    ):
        said = ask("prepare", file, "--out", tmp_path / "x", word, value, code=2)
        assert f"{word}: invalid value {told}" in said
