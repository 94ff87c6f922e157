"""Files that get their name when they are whole: after failures, kills, and with many writers."""

import fcntl
import subprocess
import sys

import pytest
from filelock import FileLock

from avcl.errors import UserError
from avcl.utils.atomic import claim, replacing, tidy, write_json, write_text

NAMES = ["file.bin", "n" * 255, "鳥" * 85]


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_replaced_when_the_new_one_is_whole_and_nothing_is_left_of_a_failure(tmp_path, name):
    path = tmp_path / name
    write_text(path, "öld")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        assert path.read_bytes() == "öld".encode()
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "öld"
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert left(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_claimed_file_is_written_once(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(OSError, match="full"), claim(path) as file:
        file.write(b"half")
        raise OSError("full")
    assert left(tmp_path) == []
    with claim(path) as file:
        file.write(b"whole")
        with claim(path) as other:  # as another process would
            assert other is None
    with claim(path) as file:
        assert file is None
    assert (path.read_bytes(), left(tmp_path)) == (b"whole", [name])


def test_what_a_killed_process_left_is_written_anew_or_removed(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, signal, sys; from pathlib import Path; from avcl.utils.atomic import claim\n"
        "with claim(Path(sys.argv[1])) as file:\n"
        "    file.write(bytes(9999)); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    lock, aside = sorted(tmp_path.iterdir())
    assert (lock.suffix, aside.suffix, aside.stat().st_size) == (".lock", ".writing", 9999)
    with FileLock(lock, blocking=False), claim(path) as file:
        assert file is None
    with claim(path) as file:
        file.write(b"whole")
    assert (path.read_bytes(), left(tmp_path)) == (b"whole", ["file"])
    lock.touch()
    tidy(path)
    assert left(tmp_path) == ["file"]


CROWD = """
import os, random, signal, sys, time
from pathlib import Path
from avcl.utils.atomic import claim
home, go, children = Path(sys.argv[1]), time.monotonic() + 0.1, []
for number in range(12):
    child = os.fork()
    if child:
        children.append(child)
        continue
    time.sleep(go - time.monotonic())
    for name in range(60):
        with claim(home / str(name)) as file:
            if file:
                for _ in range(20):
                    file.write(f"{os.getpid()} ".encode())
                    file.flush()
                with open(home.parent / "written", "ab", buffering=0) as log:
                    log.write(f"{name} ".encode())
    os._exit(0)
for child in children[::3]:
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
for name in range(60):  # what a killed one left half, while all others went by
    with claim(home / str(name)) as file:
        if file:
            file.write(b"0 " * 20)
"""


def test_of_many_writers_some_of_them_killed_one_writes_each_file(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", CROWD, home], check=True, timeout=60)
    for path in (home / str(name) for name in range(60)):
        writers = path.read_text().split()
        assert (len(writers), len(set(writers))) == (20, 1)
        tidy(path)
    assert len(left(home)) == 60
    written = (tmp_path / "written").read_text().split()
    assert len(written) - 4 <= len(set(written)) <= 60  # a killed one may write down what it does not finish


def test_where_there_are_no_locks_one_line_says_so(tmp_path, monkeypatch):
    def none(*words):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(UserError, match=r"its file system has no locks \(function not implemented\); choose a folder"):
        claim(tmp_path / "file").__enter__()
    assert not (tmp_path / "file").exists()
