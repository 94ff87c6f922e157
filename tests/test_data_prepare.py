"""``avcl data prepare``: what a store reads is what the files read; killed anywhere, it goes on to the same store."""

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from material import sine, truncate, write_clip
from miniature import SMALL
from typer.testing import CliRunner

from avcl.cli import app
from avcl.data import merged, prepare, shown
from avcl.errors import BadClip, SettingsError, UserError
from avcl.media.store import Store, read_shard
from avcl.media.storing import shard_path, write_shard
from avcl.scenarios.folder import Folder
from avcl.streams import augmenting


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two tasks of eight clips, three of which cannot be used: mute, cut off, without sound."""
    root = tmp_path_factory.mktemp("my videos é")
    for task in ("birds", "trains"):
        for number in range(8):
            tone = sine(2.0, 44100, 200.0 * (number + 1))
            clip = root / task / "near" / f"clip {number}.mp4"
            write_clip(clip, seconds=2, tracks=[{0: tone, 1: tone}], size=(96, 64))
    write_clip(root / "birds" / "near" / "clip 1.mp4", seconds=2, tracks=[{0: np.zeros(88200, np.float32)}])
    truncate(root / "birds" / "near" / "clip 2.mp4", 0.5)
    write_clip(root / "trains" / "near" / "clip 3.mp4", seconds=2, audio=None)
    return root


def scenario(root, **settings):
    return Folder(root=str(root), max_bad_share=0.5, **SMALL | settings)


@pytest.fixture(scope="module")
def lossless(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "png"
    told = list(prepare(scenario(root), folder, codec="png", per_shard=3))
    assert told[-1].startswith(f"{folder}: complete, 16 clips, 0.")
    assert sorted(told[1:-1]) == [
        f"1 clips cannot be decoded: {why}" for why in ("mute", "no audio stream", "truncated")
    ]
    return folder


def read(dataset):
    found = {}
    for number, source in enumerate(dataset.sources):
        try:
            found[source.name] = dataset[number]
        except BadClip as bad:
            found[source.name] = (bad.path, bad.reason)
    return found


# ---- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_lossless_store_reads_as_the_files_do(root, lossless, split, task):
    files, stored = scenario(root), scenario("nowhere", store=str(lossless))
    assert stored.task_names == files.task_names
    assert [bad.reason for bad in stored.refused] == [bad.reason for bad in files.refused]
    for epoch in (None, 0, 1):
        parts = []
        for dataset in (files.clips(task, split), stored.clips(task, split)):
            if epoch is None:
                parts.append(read(dataset))
            else:
                with augmenting(seed=1, epoch=epoch):
                    parts.append(read(dataset))
        one, other = parts
        assert list(one) == list(other)
        for name, item in one.items():
            if isinstance(item, tuple):
                assert other[name] == item
            else:
                assert item.keys() == other[name].keys()
                assert all(torch.equal(torch.as_tensor(item[key]), torch.as_tensor(other[name][key])) for key in item)


def test_the_fingerprint_is_that_of_the_files(root, lossless):
    assert scenario("nowhere", store=str(lossless)).fingerprint == scenario(root).fingerprint


def test_jpeg_is_smaller_and_near(root, lossless, tmp_path):
    list(prepare(scenario(root), tmp_path / "jpeg", quality=90))
    near, exact = (scenario("no", store=str(store)).clips(1, "train")[0] for store in (tmp_path / "jpeg", lossless))
    assert torch.equal(near["mel"], exact["mel"])
    assert 0 < (near["frames"] - exact["frames"]).abs().mean() < 0.2
    sizes = [sum(s["bytes"] for s in Store(folder).facts["shards"]) for folder in (tmp_path / "jpeg", lossless)]
    assert sizes[0] != sizes[1]


def test_a_store_says_what_it_quarantined(lossless):
    facts = json.loads((lossless / "store.json").read_text())
    found = {(row["task"], row["name"]): row["reason"] for row in facts["quarantined"]}
    assert found == {
        ("birds", "birds/near/clip 1.mp4"): "mute",
        ("birds", "birds/near/clip 2.mp4"): "truncated",
        ("trains", "trains/near/clip 3.mp4"): "no audio stream",
    }


def test_settings_that_do_not_fit_a_store_are_named(root, lossless):
    def mistake(**settings):
        with pytest.raises(SettingsError) as wrong:
            scenario(root, **settings)
        return str(wrong.value)

    assert mistake(store="nowhere") == "store: 'nowhere' is no prepared store"
    assert mistake(store=str(lossless), height=64, width=64) == (
        "store: its frames are 37 x 37; 73 x 73 are needed for height and width"
    )
    assert mistake(store=str(lossless), seconds=5) == "store: has 2 seconds of every clip; seconds asks for 5"
    with pytest.raises(UserError, match=r"scenario.store: a store is made of files"):
        list(prepare(scenario(root, store=str(lossless)), "anywhere"))


def test_hugging_face_opens_it(lossless):
    datasets = pytest.importorskip("datasets")
    table = datasets.load_from_disk(str(lossless))
    assert len(table) == 16
    assert table[0]["task"] == "birds"


def test_names_of_any_bytes(tmp_path):
    root = tmp_path / "root"
    for name in (b"a.mp4", b"\xff.mp4"):
        (root / "task" / "class").mkdir(parents=True, exist_ok=True)
        path = root / "task" / "class" / os.fsdecode(name)
        shutil.move(write_clip(tmp_path / "clip.mp4", seconds=2, size=(64, 48)), path)
    told = list(prepare(scenario(root), tmp_path / "store"))
    assert "complete, 2 clips" in told[-1]
    stored = scenario(root, store=str(tmp_path / "store"))
    assert [len(stored.clips(0, split)) for split in ("train", "eval")] == [1, 1]


# ---- never complete when it is not -------------------------------------------------------------------------


def test_a_store_without_all_its_shards_is_refused(root, lossless, tmp_path):
    folder = tmp_path / "store"
    assert (
        "not complete, 3 of 6 shards are still to be made"
        in list(prepare(scenario(root), folder, share=1, of=2, codec="png", per_shard=3))[-1]
    )
    with pytest.raises(SettingsError, match="is not complete; go on with `avcl data prepare`"):
        scenario(root, store=str(folder))
    with pytest.raises(UserError, match=r"3 of 6 shards are missing, the first is 00001.arrow"):
        list(merged([folder], folder))
    list(prepare(scenario(root), tmp_path / "other", share=2, of=2, codec="png", per_shard=3))
    assert "complete" in list(merged([folder, tmp_path / "other"], tmp_path / "whole"))[-1]
    assert same(tmp_path / "whole", lossless)
    shard_path(tmp_path / "whole", 4).unlink()
    with pytest.raises(SettingsError, match=r"lacks shards/00004.arrow as it was made"):
        scenario(root, store=str(tmp_path / "whole"))


def test_another_plan_is_refused(root, lossless, tmp_path):
    with pytest.raises(UserError, match=r"was begun for something else \(codec png and jpeg, quality 0 and 90\)"):
        list(prepare(scenario(root), lossless, per_shard=3))
    list(prepare(scenario(root, order=["birds"]), tmp_path / "other", codec="png", per_shard=3, share=1, of=9))
    with pytest.raises(UserError, match=r"is of another plan than .* \(clips 16 and 8, other clips\)"):
        list(merged([lossless, tmp_path / "other"], tmp_path / "whole"))
    with pytest.raises(UserError, match="is no store in the making"):
        list(merged([tmp_path], tmp_path / "whole"))


def test_a_damaged_shard_is_found(root, lossless, tmp_path):
    list(merged([lossless], tmp_path / "copy"))
    truncate(shard_path(tmp_path / "copy", 0), 0.7)
    with pytest.raises(UserError, match="cannot be read"):
        list(merged([tmp_path / "copy"], tmp_path / "copy"))


def test_two_at_once_share_the_work(root, lossless, tmp_path):
    folder, said = tmp_path / "store", []
    run = lambda: said.append(list(prepare(scenario(root), folder, codec="png", per_shard=3))[-1])  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any("complete, 16 clips" in line for line in said)
    assert same(folder, lossless)


def test_a_shard_that_another_process_makes_is_left_to_it(root, tmp_path):
    import fcntl

    (tmp_path / "shards").mkdir()
    aside = shard_path(tmp_path, 0).with_name("00000.arrow.writing")
    with aside.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert write_shard(tmp_path, 0, [], None) is False
    assert write_shard(tmp_path, 0, [], None) is True
    assert read_shard(shard_path(tmp_path, 0)).num_rows == 0


PREPARE = """
import sys
from avcl.data import prepare
from avcl.scenarios.folder import Folder
for line in prepare(Folder(**{settings!r}), {out!r}, codec="png", per_shard=1, workers={workers}):
    print(line, file=sys.stderr)
"""


def command(root, out, workers=1):
    settings = {"root": str(root), "max_bad_share": 0.5, **SMALL}
    return [sys.executable, "-c", PREPARE.format(settings=settings, out=str(out), workers=workers)]


def same(one, other):
    """Whether two stores hold the same bytes."""
    names = sorted(path.name for path in (one / "shards").glob("*.arrow"))
    assert names == sorted(path.name for path in (other / "shards").glob("*.arrow"))
    content = lambda folder: json.loads((folder / "store.json").read_text())  # noqa: E731
    assert content(one) == content(other)
    return all((one / "shards" / name).read_bytes() == (other / "shards" / name).read_bytes() for name in names)


KILLED = """
import os, random, shutil, signal, sys, time
import torch
torch.set_num_threads(1)
from avcl.data import prepare
from avcl.scenarios.folder import Folder
chance, kills, out = random.Random(0), 0, {out!r}
while kills < 24:
    child = os.fork()
    if not child:
        list(prepare(Folder(**{settings!r}), out, codec="png", per_shard=1))
        os._exit(0)
    time.sleep(chance.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
    if os.path.exists(out + "/store.json"):
        assert len([name for name in os.listdir(out + "/shards") if name.endswith(".arrow")]) == 16
        shutil.rmtree(out)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_store(root, tmp_path):
    list(prepare(scenario(root), tmp_path / "whole", codec="png", per_shard=1))
    settings = {"root": str(root), "max_bad_share": 0.5, **SMALL}
    code = KILLED.format(settings=settings, out=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    list(prepare(scenario(root), tmp_path / "killed", codec="png", per_shard=1))
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_finished_shards_are_not_made_again(root, tmp_path):
    folder = tmp_path / "store"
    list(prepare(scenario(root), folder, per_shard=4, share=1, of=2))
    before = {path.name: path.stat().st_ino for path in (folder / "shards").iterdir()}
    assert len(before) == 2
    assert next(prepare(scenario(root), folder, per_shard=4)).startswith("8 clips in 2 shards")
    after = {path.name: path.stat().st_ino for path in (folder / "shards").iterdir()}
    assert len(after) == 4
    assert before.items() <= after.items()


@pytest.mark.slow
def test_processes_make_the_same_store_and_die_with_their_parent(root, tmp_path):
    out = tmp_path / "store"
    running = subprocess.Popen(command(root, out, workers=2), stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not list(out.glob("shards/*.arrow")) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=30)  # ends when the last process closes its stderr: no worker is left
    assert not (out / "store.json").exists()
    for folder in (out, tmp_path / "whole"):
        list(prepare(scenario(root), folder, codec="png", per_shard=1))
    assert same(out, tmp_path / "whole")


def test_a_full_disk_ends_in_one_line_and_goes_on(root, tmp_path):
    out = tmp_path / "store"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))  # the system refuses more, as a full disk does
    try:
        with pytest.raises(UserError) as error:
            list(prepare(scenario(root), out, codec="png", per_shard=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    made = len(list(out.glob("shards/*.arrow")))
    assert made < 3  # of clips that cannot be decoded
    assert str(error.value) == f"{out}: file too large; {made} of 16 shards are finished; the same command goes on"
    assert not (out / "store.json").exists()
    assert not list(out.glob("shards/*.writing"))
    assert "complete" in list(prepare(scenario(root), out, codec="png", per_shard=1))[-1]


def test_without_a_terminal_ten_lines_say_how_far_it_is(caplog):
    with caplog.at_level(logging.INFO, "avcl"):
        assert list(shown(iter(range(95)), 95, "counting")) == list(range(95))
        assert list(shown(iter(()), 0, "counting")) == []
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == "counting: 10 of 95, 0 s left"
    assert caplog.messages[-1] == "counting: 95 of 95, 0 s left"


def test_the_commands(root, tmp_path):
    file = tmp_path / "mine.yaml"
    settings = {"name": "folder", "root": str(root), "max_bad_share": 0.5, **SMALL}
    file.write_text(json.dumps({"scenario": settings}))
    ask = lambda *words: CliRunner().invoke(app, ["data", *map(str, words)])  # noqa: E731
    for part in ("1/2", "2/2"):
        out = tmp_path / part[0]
        done = ask("prepare", file, "--out", out, "--shard", part, "--workers", 1, "--codec", "png")
        assert done.exit_code == 0, done.output
    done = ask("merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "whole")
    assert done.exit_code == 0, done.output
    assert "complete, 16 clips" in done.output
    for words, told in (
        (("--shard", "3/2"), "--shard: '3/2' is not allowed: I/N is needed, as in 1/8"),
        (("--codec", "gif"), "--codec: 'gif' is not allowed: jpeg or png is needed"),
    ):
        done = ask("prepare", file, "--out", tmp_path / "x", *words)
        assert done.exit_code == 2
        assert told in done.output
