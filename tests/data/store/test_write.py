"""``avcl data prepare`` and ``merge`` killed, crowded and out of space: what comes out is the store made in peace."""

import json
import random
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
from helpers.miniature import SMALL, of_videos, same

from avcl.data.store.prepare import merge_parts, pre_decode
from avcl.data.store.write import shard_path, write_shard
from avcl.errors import UserError
from avcl.utils.atomic import claim

MAKING = {"codec": "png", "per_shard": 1}


@pytest.fixture(scope="module")
def peace(root, tmp_path_factory):
    """The store made without trouble, and the two parts of it."""
    folder = tmp_path_factory.mktemp("peace")
    for name, share, of in (("whole", 1, 1), ("1", 1, 2), ("2", 2, 2)):
        list(pre_decode(of_videos(root), folder / name, share=share, of=of, **MAKING))
    return folder


# Real processes that start at once: what is loaded here is forked, and not loaded again.
BEGIN = """
import json, os, random, shutil, signal, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
from avcl.data.store.prepare import merge_parts, pre_decode
from avcl.errors import UserError
import pyarrow as pa
from avcl.data.store.format import Store
from avcl.scenarios.folder import Folder
SMALL = json.loads(sys.argv[4])
root, peace, out = map(Path, sys.argv[1:4])

def start(work):
    child = os.fork()
    if child:
        return child
    try:
        told = list(work())[-1]
    except UserError as error:
        told = f"error: {error}"
    (out.parent / f"told {os.getpid()}").write_text(told)
    os._exit(0)

def make(**more):
    settings = dict(max_bad_share=0.5, **SMALL)
    return lambda: pre_decode(Folder(root=str(root), **settings), out, **(dict(codec="png", per_shard=1) | more))

def looks_complete():
    if not (out / "store.json").exists():
        return False
    records = Store(out).records
    clips = [pa.ipc.open_stream(path.read_bytes()).read_all().num_rows for path in (out / "shards").glob("*.arrow")]
    assert len(records) == 16 == sum(clips)
    return True

def kill_at_random(works, longest, times=24):
    chance, kills = random.Random(0), 0
    while kills < times:
        moments = {start(work): chance.uniform(0, longest) for work in works}
        begun = time.monotonic()
        for child in sorted(moments, key=moments.get):
            time.sleep(max(0, begun + moments[child] - time.monotonic()))
            os.kill(child, signal.SIGKILL)
        for child in moments:
            kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if looks_complete():
            shutil.rmtree(out)
"""


# Every script in a process of its own, when asked for on standard input.
SERVE = """
for line in sys.stdin:
    asked = json.loads(line)
    child, out = os.fork(), Path(asked["out"])
    if not child:
        try:
            exec(asked["script"])
        except BaseException:
            print(traceback.format_exc(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def server(root, peace):
    words = [sys.executable, "-c", BEGIN + SERVE, str(root), str(peace), "", json.dumps(SMALL)]
    with subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def play(server):
    """Runs a script of trouble around the store ``out``; gives what its processes said at their ends."""

    def run(script, out):
        out.parent.mkdir(exist_ok=True)
        server.stdin.write(json.dumps({"script": script, "out": str(out)}) + "\n")
        server.stdin.flush()
        failed = "".join(iter(server.stdout.readline, "done\n"))
        assert not failed, failed
        return sorted(path.read_text() for path in out.parent.glob("told *"))

    return run


def tidy(out):
    """Without the files that a kill left half, which nobody would take for whole."""
    for path in out.rglob("*.writing"):
        path.unlink()


# ---- killed ----
MERGE = "lambda: merge_parts([peace / '1', peace / '2'], out)"


@pytest.mark.parametrize(("works", "longest"), [("[make()]", 0.15), ("[make()] * 2", 0.15), (f"[{MERGE}] * 2", 0.03)])
def test_killed_at_any_moment_it_goes_on_to_the_same_store(play, root, peace, tmp_path, works, longest):
    play(f"kill_at_random({works}, {longest})", out := tmp_path / "store")
    merge = "merge" in works
    list(merge_parts([peace / "1", peace / "2"], out) if merge else pre_decode(of_videos(root), out, **MAKING))
    tidy(out)
    assert same(out, peace / "whole")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_die_with_the_command_and_it_goes_on_to_the_same_store(root, peace, tmp_path):
    chance, out = random.Random(0), tmp_path / "store"
    out.mkdir()
    for kind in [signal.SIGKILL] * 8 + [signal.SIGINT]:
        code = (
            "from avcl.data.store.prepare import pre_decode; from avcl.scenarios.folder import Folder\n"
            f"settings = dict(root={str(root)!r}, max_bad_share=0.5, **{SMALL!r})\n"
            "if __name__ == '__main__':\n"
            f"    print(*pre_decode(Folder(**settings), {str(out)!r}, codec='png', per_shard=1, workers=2))\n"
        )
        before = set(out.rglob("*"))
        running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until = time.monotonic() + 60
        while set(out.rglob("*")) == before and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)  # the workers begin
        time.sleep(chance.uniform(0.0, 0.5))
        running.send_signal(kind)
        said = running.communicate(timeout=30)[0]  # ends when the last process closes its output: no worker is left
        if (out / "store.json").exists():
            assert b"complete, 16 clips" in said or not said
            for path in sorted(out.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        elif kind == signal.SIGINT:
            assert said.count(b"Traceback") == 1  # this process's own, of the script; none of the workers'
    list(pre_decode(of_videos(root), out, **MAKING))
    tidy(out)
    assert same(out, peace / "whole")


# ---- two at once ----
@pytest.mark.parametrize("work", ["make()", MERGE])
def test_two_at_once_share_the_work(play, peace, tmp_path, work):
    script = f"[os.waitpid(child, 0) for child in [start({work}), start({work})]]"
    said = play(script, tmp_path / "a" / "store")
    assert any("complete, 16 clips" in line for line in said)
    assert all("complete, 16 clips" in line or "another process is writing some" in line for line in said)
    assert same(tmp_path / "a" / "store", peace / "whole")


def test_a_merge_leaves_a_shard_to_the_process_that_copies_it(peace, tmp_path):
    (tmp_path / "shards").mkdir()
    with claim(shard_path(tmp_path, 3)) as file:
        *_, said = merge_parts([peace / "1", peace / "2"], tmp_path)
        assert said == (
            f"{tmp_path}: not complete, 1 of 16 shards are missing, another process is writing some; "
            "rerun the same command to look again"
        )
        file.write(shard_path(peace / "whole", 3).read_bytes())
    list(merge_parts([peace / "1", peace / "2"], tmp_path))
    tidy(tmp_path)
    assert same(tmp_path, peace / "whole")


def test_two_at_once_that_make_different_stores(play, tmp_path):
    script = "[os.waitpid(child, 0) for child in [start(make()), start(make(codec='jpeg'))]]"
    out = tmp_path / "a" / "store"
    done, refused = play(script, out)
    assert "complete, 16 clips" in done
    codec = json.loads((out / "store.json").read_text())["form"]["codec"]
    told = "codec png and jpeg, quality 0 and 90" if codec == "png" else "codec jpeg and png, quality 90 and 0"
    assert refused == f"error: {out}: was begun for something else ({told}); choose another folder"


def test_a_shard_that_another_process_makes_is_left_to_it(tmp_path):
    (tmp_path / "shards").mkdir()
    with claim(shard_path(tmp_path, 0)) as file:
        assert write_shard(tmp_path, 0, [], None) is False
        file.write(b"theirs")
    assert write_shard(tmp_path, 0, [], None) is True
    assert shard_path(tmp_path, 0).read_bytes() == b"theirs"
    assert write_shard(tmp_path, 1, [], None) is True
    assert pa.ipc.open_stream(shard_path(tmp_path, 1).read_bytes()).read_all().num_rows == 0


# ---- a full disk -------------------------------------------------------------------------------------------

FULL = """
import ctypes, subprocess
from typer.testing import CliRunner
from avcl.cli.main import app
disk, said = out.parent, []
ids = {"uid": os.getuid(), "gid": os.getgid()}
if ctypes.CDLL(None).unshare(0x10000000 | 0x20000):  # user and mount name spaces: gone with this process
    os._exit(0)
Path("/proc/self/setgroups").write_text("deny")
for kind, number in ids.items():
    Path(f"/proc/self/{kind}_map").write_text(f"0 {number} 1")
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]).returncode:
    os._exit(0)

def fill(free):
    drop = disk / "filler"
    drop.unlink(missing_ok=True)
    space = os.statvfs(disk)
    with drop.open("wb") as filler:
        filler.write(bytes(space.f_bavail * space.f_frsize - free))

def run(*words):
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    said.append([done.exit_code, done.output, left])

words = ("prepare", disk.parent / "run.yaml", "--out", out, "--codec", "png", "--workers", 1)
fill(0)
run(*words)
fill(400_000)
run(*words)
(disk / "filler").unlink()
run(*words)
assert len(list((out / "shards").iterdir())) == 16
for name in ("store.json", "index.arrow"):
    (out / name).unlink()
fill(0)
run("merge", out, "--out", out)
fill(500_000)
shutil.move(out, disk / "moved")
run("merge", disk / "moved", "--out", out)
(disk / "filler").unlink()
shutil.rmtree(out)
shutil.move(disk / "moved", out)
run("merge", out, "--out", out)
shutil.copytree(out, disk.parent / "copy")
(disk.parent / "said").write_text(json.dumps(said))
"""


def test_a_full_disk_ends_in_one_line_and_goes_on(play, root, peace, tmp_path):
    """A disk of 3 MB, in a name space of its own: mounted for this test alone, gone with it."""
    settings = {"name": "folder", "root": str(root), "max_bad_share": 0.5, **SMALL}
    (tmp_path / "run.yaml").write_text(json.dumps({"scenario": settings}))
    out = tmp_path / "disk" / "store"
    play(FULL, out)
    if not (tmp_path / "said").exists():
        pytest.skip("no disk can be mounted here: no name spaces for users")
    none, some, whole, index, part, again = json.loads((tmp_path / "said").read_text())
    full = "no space left on device"
    assert none == [2, f"avcl: {out}: cannot be made: {full}\n", []]
    made = len(some[2]) - 1
    assert 2 <= made < 16
    assert some[:2] == [2, f"avcl: {out}: {full}; {made} of 16 shards are finished; rerun the same command to resume\n"]
    assert set(some[2]) < {"plan.json"} | {f"shards/{number:05d}.arrow" for number in range(16)}
    assert (whole[0], whole[1].count("complete, 16 clips")) == (0, 1)
    assert index[:2] == [2, f"avcl: {out}: {full}; all shards are finished; rerun the same command to resume\n"]
    assert len(index[2]) == 16 + 3  # the plan and what is of Hugging Face
    assert part[:2] == [2, f"avcl: {out}: {full}; rerun the same command to resume\n"]
    assert not {"store.json", "index.arrow"} & set(part[2])
    assert again[0] == 0
    assert same(tmp_path / "copy", peace / "whole")


def test_what_the_system_refuses_in_other_ways_is_one_line_too(root, tmp_path):
    out = tmp_path / "file"
    out.write_text("not a folder")
    with pytest.raises(UserError, match=f"{out}: cannot be made: not a directory"):
        list(pre_decode(of_videos(root), out, **MAKING))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "plan.json").write_text("")
    with pytest.raises(UserError, match=r"is no store in the making: it has no plan.json that can be read"):
        list(pre_decode(of_videos(root), tmp_path / "store", **MAKING))
