"""A damaged store is named, file by file, and not trained on; one that is cut while it is read ends in one line."""

import json
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest
from helpers.material import truncate
from helpers.miniature import SMALL
from helpers.miniature import of_videos as scenario
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.data.store import shard
from avcl.data.store.format import Store
from avcl.data.store.prepare import finish, pre_decode
from avcl.data.store.seal import LENGTH
from avcl.errors import BadClip, UserError


@pytest.fixture(scope="module")
def store(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed") / "store"
    list(pre_decode(scenario(root), folder, per_shard=3))
    return folder


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store, tmp_path / "store")


def flip(path, bit):
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def read(folder):
    """What a run does before its first step."""
    return scenario("nowhere", store=str(folder), verify=True).clips(0, "train")


def check(folder, tmp_path):
    settings = {"name": "folder", "root": "nowhere", "max_bad_share": 0.5, "store": str(folder), **SMALL}
    (tmp_path / "run.yaml").write_text(json.dumps({"scenario": settings}))
    return CliRunner().invoke(app, ["data", "check", str(tmp_path / "run.yaml")])


def as_before(folder):
    """The store as an earlier avcl made it: without any hash."""
    for path in (folder / "shards").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:-LENGTH])
    facts = json.loads((folder / "store.json").read_text())
    facts["shards"] = [
        {key: value for key, value in kept.items() if key != "sha256"} | {"bytes": kept["bytes"] - LENGTH}
        for kept in facts["shards"]
    ]
    facts = {key: value for key, value in facts.items() if key not in ("files", "sha256")}
    (folder / "store.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder


def test_every_hash_is_that_of_sha256sum_and_the_check_says_so(store, tmp_path):
    facts = json.loads((store / "store.json").read_text())
    listed = facts["files"] | {kept["file"]: kept["sha256"] for kept in facts["shards"]}
    said = subprocess.run(["sha256sum", *listed], cwd=store, capture_output=True, text=True, check=True).stdout
    assert dict(line.split("  ")[::-1] for line in said.splitlines()) == listed
    everything = {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
    assert listed.keys() == everything - {"store.json"}
    assert f"{store}: {len(listed)} files as they were made, by SHA-256\n" in check(store, tmp_path).output


def test_200_flipped_bits_are_named_and_none_is_trained_on(copy, tmp_path):
    chance, named = random.Random(0), set()
    files = [path for path in sorted(copy.rglob("*")) if path.is_file()]
    for number in range(200):
        # half of them wherever they fall, half in each file alike
        weights = [path.stat().st_size if number % 2 else 1 for path in files]
        path = chance.choices(files, weights)[0]
        bit = chance.randrange(8 * path.stat().st_size)
        flip(path, bit)
        with pytest.raises(UserError) as told:
            read(copy)
        assert path.name in str(told.value), (path, bit)
        assert "\n" not in str(told.value)
        if number % 20 == 0:
            done = check(copy, tmp_path)
            assert (done.exit_code, path.name in done.output) == (2, True)
        flip(path, bit)
        named.add(path)
    assert named == set(files)
    assert len(read(copy)) == 6


def test_all_damaged_files_are_named_together(copy, tmp_path):
    for number in (0, 3):
        flip(copy / "shards" / f"{number:05d}.arrow", 8 * 20_000)
    flip(copy / "state.json", 100)
    said = check(copy, tmp_path).output
    why = "cannot be read: its content is not that of its SHA-256; remove it and prepare again"
    assert f"avcl: {copy}/state.json: cannot be read: its SHA-256 is not that of store.json; remove it and" in said
    assert f"{copy}/shards/00000.arrow: {why}\n" in said, said
    assert f"{copy}/shards/00003.arrow: {why}\n" in said
    assert said.count("\n") == 3


def test_preparing_again_does_not_call_damage_whole_but_mends_what_was_removed(root, copy):
    path = copy / "shards" / "00001.arrow"
    flip(path, 8 * 30_000)
    with pytest.raises(UserError, match=r"00001.arrow: cannot be read: its content is not that of its SHA-256; remove"):
        list(pre_decode(scenario(root), copy, per_shard=3))
    path.unlink()
    list(pre_decode(scenario(root), copy, per_shard=3))
    assert len(read(copy)) == 6


def test_a_store_of_an_earlier_version_opens_and_gets_its_hashes_when_prepared_again(root, store, copy, tmp_path):
    before = as_before(copy)
    old, new = (scenario("no", store=str(folder)).clips(0, "train") for folder in (before, store))
    for number in (0, 3):
        assert all(np.array_equal(old[number][key], new[number][key]) for key in old[number])
    assert "has no SHA-256, as it was made by an earlier avcl; rerun" in check(before, tmp_path).output
    list(pre_decode(scenario(root), before, per_shard=3))
    assert "files as they were made, by SHA-256" in check(before, tmp_path).output
    flip(before / "shards" / "00002.arrow", 8 * 30_000)
    with pytest.raises(UserError, match=r"00002.arrow: .* its SHA-256 is not that of store.json"):
        finish(before)
    assert check(before, tmp_path).exit_code == 2


def test_a_damaged_shard_of_an_earlier_store_is_a_clip_or_one_line(copy):
    """Without any hash: whatever the damage, there is no crash."""
    path = as_before(copy) / "shards" / "00000.arrow"
    whole, refused = path.read_bytes(), 0
    clips = scenario("nowhere", store=str(copy)).clips(0, "train")
    for damage in range(120):
        chance = random.Random(damage)
        path.unlink()  # the file that is open stays as it is
        path.write_bytes(whole)
        for _ in range(1 + damage % 4):
            flip(path, chance.randrange(8 * (4000 if damage % 3 else len(whole))))
        shard._opened.cache_clear()
        for number in range(len(clips)):
            try:
                clips[number]
            except UserError as error:
                assert str(error).startswith(f"{path}: cannot be read: ")
                assert "\n" not in str(error)
                refused += 1
            except BadClip as bad:
                assert bad.path == clips.sources[number].path
    assert refused > 20


def test_rows_are_those_that_arrow_reads(store):
    for path in sorted((store / "shards").glob("*.arrow")):
        rows = pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()
        for number, row in enumerate(rows):
            every = range(len(row["frames"]))
            assert not every or shard.frames(str(path), number, every) == row["frames"]
            assert shard.sound(str(path), number, 10**9).tobytes() == row["sound"]
            assert len(shard.sound(str(path), number, 5)) == min(5, len(row["sound"]) // 2)


# ---- cut while it is read ----
def test_a_shard_that_is_cut_while_it_is_open_is_one_line(copy):
    clips = scenario("nowhere", store=str(copy)).clips(0, "train")
    assert clips[0]["frames"].any()
    path = truncate(copy / "shards" / "00000.arrow", 0.3)
    with pytest.raises(UserError, match=f"^{path}: cannot be read: it ends early: cut, or damaged; remove it and prep"):
        [clips[number] for number in range(len(clips))]


@pytest.mark.process
def test_a_store_that_is_cut_during_a_run_ends_it_in_one_line(copy, tmp_path):
    settings = {
        "scenario": {"name": "folder", "root": "nowhere", "max_bad_share": 0.5, "store": str(copy), **SMALL},
        "backbone": {"name": "cav-mae", "size": "tiny", "dim": 48, "depth": 1},
        "strategy": "finetune",
        "learner": {"epochs": 100_000, "batch_size": 2, "workers": 1, "max_bad_share": 0.5},
        "out": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    words = [sys.executable, "-m", "avcl", "train", str(tmp_path / "run.yaml")]
    with subprocess.Popen(words, text=True, stderr=subprocess.PIPE, cwd=tmp_path) as running:
        for line in running.stderr:
            if "task" in line:  # the first one begins
                break
        time.sleep(1.0)
        for path in (copy / "shards").glob("*.arrow"):
            truncate(path, 0.2)
        said = running.stderr.read()
    assert running.returncode == 2, said
    assert said.splitlines()[-1].startswith(f"avcl: {copy}/shards/0000")
    assert "cannot be read: it ends early: cut, or damaged; remove it and prepare again" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_store_of_more_shards_than_files_can_be_open(root, tmp_path, monkeypatch):
    list(pre_decode(scenario(root), tmp_path / "store", per_shard=1))
    monkeypatch.setattr(shard, "_opened", shard.functools.lru_cache(2)(shard._Opened))
    clips = scenario("nowhere", store=str(tmp_path / "store")).clips(1, "train")
    assert all(clips[number]["frames"].any() for _ in range(2) for number in range(len(clips)))
    assert Store(tmp_path / "store").damage() == []
