"""No path of a list or of a store leads out of its root; what is the user's own still may lie anywhere."""

import csv
import json
import os
import shutil

import pyarrow as pa
import pytest
from helpers.material import write_clip
from helpers.miniature import SMALL, of_videos, place, vggsound
from PIL import Image
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.data.paths import below, elsewhere
from avcl.data.store.format import hashed
from avcl.data.store.prepare import pre_decode
from avcl.errors import UserError
from avcl.utils.atomic import as_json


def test_below(tmp_path):
    (tmp_path / "link").symlink_to("/")
    for name in ("a/b.wav", "./a", "link/etc", f"{tmp_path}/a.wav", "a..b", "~", "a b"):
        assert below(tmp_path, name) == os.path.join(tmp_path, name)
    for name, why in {
        "../a": "leads out of its folder",
        "a/../../b": "leads out of its folder",
        "/etc/passwd": "leads out of its folder",
        f"{tmp_path}2/a": "leads out of its folder",
        "a\0b": "has a NUL",
        "x" * 256: "is too long for a path",
        "x/" * 2100: "is too long for a path",
    }.items():
        with pytest.raises(UserError) as wrong:
            below(tmp_path, name)
        assert str(wrong.value).endswith(why)
        assert len(str(wrong.value)) < 250
    (tmp_path / "other").symlink_to(tmp_path)
    assert not elsewhere(tmp_path / "other", f"{tmp_path}/a")  # the same folder by another name
    assert elsewhere(tmp_path, "/a")


def check(tmp_path, code=0, **scenario):
    (tmp_path / "run.yaml").write_text(json.dumps({"scenario": {**SMALL, **scenario}}))
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path / "run.yaml")])
    assert done.exit_code == code, done.output
    return done.output


# ---- lists ----
@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))


@pytest.fixture
def lists(tmp_path, good):
    """A root with two clips of one class that were taken apart, and a secret beside it."""
    root = tmp_path / "root"
    (tmp_path / "split.yaml").write_text('tasks: {one: ["skiing"]}')
    for folder in (root / "clips", tmp_path / "secret"):
        for number in range(2):
            (folder / f"{number}").mkdir(parents=True)
            for k in range(17):
                Image.new("RGB", (48, 32), (9 * k,) * 3).save(folder / f"{number}" / f"frame_{k}.jpg")
            write_clip(folder / f"{number}.wav", video=None, audio="pcm_s16le", seconds=2)
    return root


def stella(root, *rows):
    with (root / "list.csv").open("w", newline="") as file:
        for number, (frames, wav) in enumerate(rows):
            csv.writer(file).writerow([number, f"v{number}", frames, wav, "['skiing']", "one"])


def listed(tmp_path, code=0, **more):
    lists = {"train": "list.csv", "eval": "eval.csv", "split": str(tmp_path / "split.yaml")} | more
    return check(tmp_path, code, name="listed", root=str(tmp_path / "root"), **lists)


@pytest.fixture
def both(lists):
    stella(lists, ("clips/1", "clips/1.wav"))
    (lists / "list.csv").rename(lists / "eval.csv")
    return lists


@pytest.mark.parametrize(
    ("frames", "wav", "why"),
    [
        ("../secret/0", "clips/0.wav", "'../secret/0/frame_*.jpg' leads out of its folder"),
        ("clips/0", "clips/../../secret/0.wav", "'clips/../../secret/0.wav' leads out of its folder"),
        ("clips/" + "0" * 300, "clips/0.wav", "is too long for a path"),
        ("clips/0\0", "clips/0.wav", "has a NUL"),
    ],
)
def test_a_path_of_a_list_that_leads_out_ends_in_one_line(both, tmp_path, frames, wav, why):
    stella(both, ("clips/0", "clips/0.wav"), (frames, wav))
    said = listed(tmp_path, code=2)
    assert said.startswith(f"avcl: {both}/list.csv:2: the path ")
    assert why in said
    assert said.count("\n") == 1
    entry = {"video_id": "frame", "wav": wav, "video_path": frames, "labels": "skiing"}
    (both / "list.json").write_text(json.dumps({"data": [entry]}))
    said = listed(tmp_path, code=2, train="list.json")
    assert said.startswith(f"avcl: {both}/list.json:data[0]: the path ")
    assert said.count("\n") == 1


def test_absolute_paths_are_read_below_root_and_else_the_clip_is_looked_for_by_name(both, tmp_path, good, caplog):
    stella(both, (f"{both}/clips/0", f"{both}/clips/0.wav"))
    assert "missing" not in listed(tmp_path)
    assert "outside" not in caplog.text
    secret = tmp_path / "secret"
    stella(both, ("clips/0", "clips/0.wav"), (f"{secret}/1", f"{secret}/1.wav"))
    assert "missing" in listed(tmp_path)
    told = f"the lists have 1 clip by paths outside of root, which are not read; the first: {secret}/1/frame_*.jpg; "
    assert f"{told}choose a root above them" in caplog.messages
    place(good, both / "video" / "abcdefghijk_000030.mp4")
    stella(both, ("clips/0", "clips/0.wav"), (f"{secret}/abcdefghijk_000030", f"{secret}/1.wav"))
    assert "missing" not in listed(tmp_path)


def test_media_may_lie_behind_links(both, tmp_path):
    shutil.move(both / "clips", tmp_path / "another disk")
    (both / "clips").symlink_to(tmp_path / "another disk")
    stella(both, ("clips/0", "clips/0.wav"))
    assert "missing" not in listed(tmp_path)


# ---- stores ----
@pytest.fixture(scope="module")
def made(tmp_path_factory, good):
    top = tmp_path_factory.mktemp("made")
    for number in range(4):
        place(good, top / "root" / "task" / "class" / f"{number}.mp4", number)
    scenario = of_videos(top / "root")
    list(pre_decode(scenario, top / "store", per_shard=2))
    return top


def of_store(tmp_path, code=0):
    return check(tmp_path, code, name="folder", root="nowhere", max_bad_share=0.5, store=str(tmp_path / "store"))


def change_facts(folder, change):
    """A store.json that somebody made, whose hashes are right."""
    facts = json.loads((folder / "store.json").read_text())
    change(facts)
    (folder / "store.json").write_text(as_json(hashed(facts)))


@pytest.mark.parametrize(
    "name", ["../../secret.arrow", "/etc/passwd", "shards/../../x", "shards/00000.arrow\0", "x" * 5000]
)
def test_a_store_that_names_other_files_is_refused(made, tmp_path, name):
    shutil.copytree(made / "store", tmp_path / "store")
    change_facts(tmp_path / "store", lambda facts: facts["shards"][0].update(file=name))
    said = of_store(tmp_path, code=2)
    assert said.startswith(f"avcl: scenario.store: '{tmp_path}/store': its store.json names {name[:60]!r}"[:-1])
    assert "not shards/00000.arrow" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["../../etc/x.mp4", "/etc/passwd", "task/class/\0.mp4", "x" * 5000])
def test_a_store_whose_clips_have_names_that_lead_out_is_refused(made, tmp_path, name):
    shutil.copytree(made / "store", tmp_path / "store")
    index = tmp_path / "store" / "index.arrow"
    table = pa.ipc.open_stream(index.read_bytes()).read_all()
    rows = table.to_pylist()
    rows[1]["name"] = name
    with pa.OSFile(str(index), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, table.schema))
    change_facts(tmp_path / "store", lambda facts: facts.pop("files"))  # as an earlier avcl made it
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    facts.pop("sha256")
    (tmp_path / "store" / "store.json").write_text(as_json(facts))
    said = of_store(tmp_path, code=2)
    assert said.startswith(f"avcl: {index}: cannot be read: the path ")
    assert said.count("\n") == 1


def test_shards_may_lie_on_other_disks(made, tmp_path):
    shutil.copytree(made / "store", tmp_path / "store")
    shard = tmp_path / "store" / "shards" / "00001.arrow"
    shutil.move(shard, tmp_path / "elsewhere.arrow")
    shard.symlink_to(tmp_path / "elsewhere.arrow")
    assert "as they were made, by SHA-256" in of_store(tmp_path)


@pytest.mark.parametrize("target", ["secret", "/dev/zero", "nowhere"])
@pytest.mark.parametrize("name", ["shards/00001.arrow", "lists/a.csv"])
def test_links_that_lead_out_of_a_part_are_not_merged(made, tmp_path, name, target):
    part = shutil.copytree(made / "store", tmp_path / "part")
    (tmp_path / "secret").write_text("secret")
    (part / name).unlink(missing_ok=True)
    (part / name).parent.mkdir(exist_ok=True)
    (part / name).symlink_to(tmp_path / target)
    done = CliRunner().invoke(app, ["data", "merge", str(part), "--out", str(tmp_path / "whole")])
    assert done.exit_code == 2
    assert done.output == f"avcl: {part}/{name}: leads out of {part}, or is no file; put the file itself there\n"
    assert not list((tmp_path / "whole").rglob("*.csv"))


def test_a_part_that_says_it_is_endless_is_one_line(made, tmp_path):
    part = shutil.copytree(made / "store", tmp_path / "part")
    plan = json.loads((part / "plan.json").read_text())
    (part / "plan.json").write_text(as_json(plan | {"clips": 10**18}))
    done = CliRunner().invoke(app, ["data", "merge", str(part), "--out", str(tmp_path / "whole")])
    assert done.exit_code == 2
    assert f"{5 * 10**17 - 2} of {5 * 10**17} shards are missing, the first is 00002.arrow" in done.output


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "x" * 300, "/dev/zero"])
def test_folders_that_can_be_none_are_one_line(tmp_path, good, name):
    root = vggsound(tmp_path / "root", good, ["sports"], train=1)
    for settings in (
        {"name": "folder", "root": name},
        {"name": "folder", "root": str(root), "store": name},
        {"name": "continual-vs", "root": name},
        {"name": "continual-vs", "root": str(root), "order": ["sports"], "train": name},
    ):
        said = check(tmp_path, code=2, **settings)
        assert said.startswith("avcl: scenario.")
        assert "Traceback" not in said
