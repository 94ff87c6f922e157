"""Writes the shards of a store: each is written aside, renamed when it is whole, and never written twice."""

import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from avcl.data.source import Record
from avcl.data.store.encode import row_of
from avcl.data.store.format import Form, Plan, read_facts, shard_name
from avcl.data.store.seal import Sealing
from avcl.data.store.shard import SCHEMA
from avcl.errors import UserError
from avcl.utils.atomic import as_json, claim

log = logging.getLogger(__name__)


class Making:
    """A store in the making: its plan, and which shards are there.

    ``per_shard``: clips in a file; by default 64, and fewer where that makes less than 256 files to share out ·
    ``selection``: the settings that chose the clips.
    """

    def __init__(
        self,
        folder: str | Path,
        clips: Sequence[Record],
        form: Form,
        per_shard: int | None = None,
        selection: Mapping[str, Any] | None = None,
    ):
        per_shard = per_shard or max(1, min(64, len(clips) // 256))
        self.folder, self.form = Path(folder).expanduser(), form
        self.shards = [list(clips[start : start + per_shard]) for start in range(0, len(clips), per_shard)]
        listing = hashlib.sha256()
        for clip in clips:
            source = clip.source  # not its path: other machines may have the same clips elsewhere
            text = "\t".join((*clip[:3], source.name, str(source.index), str(_size(source.path))))
            listing.update(text.encode(errors="surrogateescape") + b"\n")
        self.plan = {"version": 1, "clips": len(clips), "per_shard": per_shard, "listing": listing.hexdigest()}
        self.plan |= {"form": asdict(form), "selection": dict(selection or {})}

    def begin(self, lists: Mapping[str, Path] | None = None) -> None:
        """Make the folder, with copies of ``lists``; UserError where it is another store or something else."""
        if differ := different(planned(self.folder, self.plan), self.plan):
            raise UserError(f"{self.folder}: was begun for something else ({differ}); choose another folder")
        try:
            keep(lists or {}, self.folder)
        except OSError as error:
            raise UserError(f"{self.folder}: {strerror(error)}; {self._rest()}") from None

    def missing(self, share: int = 1, of: int = 1) -> list[int]:
        """The numbers of the shards that are still to be made, of every ``of`` the ``share``-th."""
        mine = range(share - 1, len(self.shards), of)
        return [number for number in mine if not shard_path(self.folder, number).exists()]

    def make(self, numbers: Sequence[int], workers: int) -> Iterator[bool]:
        """Make shards; says of each whether it is there, or another process is at it. UserError at a full disk."""
        jobs = [(self.folder, number, self.shards[number], self.form) for number in numbers]
        try:
            if workers <= 1:
                yield from (write_shard(*job) for job in jobs)
            else:
                yield from _in_processes(jobs, workers)
        except BrokenProcessPool:
            raise UserError(f"{self.folder}: a worker was killed, maybe for want of memory; {self._rest()}") from None
        except OSError as error:
            raise UserError(f"{self.folder}: {strerror(error)}; {self._rest()}") from None

    def _rest(self) -> str:
        total = len(self.shards)
        return f"{total - len(self.missing())} of {total} shards are finished; rerun the same command to resume"


def keep(lists: Mapping[str, Path], folder: Path) -> None:
    """Copy lists into a store; the log names those that it cannot hold, because their names lead out of it."""
    for name, path in lists.items():
        home = folder / "lists" / name
        if home.is_relative_to(folder) and ".." not in home.parts:
            home.parent.mkdir(parents=True, exist_ok=True)
            copy(path, home)
        else:
            log.warning("%s: is outside of root, and not copied into the store; it must stay where it is", path)


def copy(path: Path, home: Path) -> None:
    """A copy that is whole, made once."""
    with claim(home) as file:
        if file:
            with path.open("rb") as original:
                shutil.copyfileobj(original, file, 2**20)


def planned(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan of a folder, which is made where it is not there yet: ``plan``, or that of who was first."""
    path = folder / "plan.json"
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        while not path.exists():
            with claim(path) as file:
                if file:
                    file.write(as_json(plan).encode())
                else:  # another process is at it
                    time.sleep(0.01)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {strerror(error)}") from None
    return read_plan(folder)


def read_plan(folder: Path) -> dict[str, Any]:
    """What is to be in a store; UserError where there is no such thing."""
    try:
        return read_facts(folder / "plan.json", Plan)
    except (OSError, ValueError):
        raise UserError(f"{folder}: is no store in the making: it has no plan.json that can be read") from None


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / shard_name(number)


def different(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In what two plans differ, in words; empty where they do not. The same clips may be chosen in many ways."""
    one, other = ({**plan, **plan["form"], "form": None, "selection": None} for plan in (one, other))
    words = {"listing": "other clips"}
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    return ", ".join(words.get(key, f"{key} {one.get(key)} and {other.get(key)}") for key in keys)


def strerror(error: OSError) -> str:
    """What the system says."""
    return (error.strerror or str(error)).lower()


def write_shard(folder: Path, number: int, clips: Sequence[Record], form: Form) -> bool:
    """Decode clips into one Arrow file; False where another process is at it."""
    home = shard_path(folder, number)
    with claim(home) as file:
        if file is None:
            return home.exists()
        sealing = Sealing(file)
        with pa.ipc.new_stream(pa.PythonFile(sealing, "w"), SCHEMA) as writer:
            for clip in clips:
                writer.write_batch(pa.RecordBatch.from_pylist([row_of(clip, form)], SCHEMA))
        sealing.seal()
    return True


def _in_processes(jobs: Sequence[tuple[Path, int, list[Record], Form]], workers: int) -> Iterator[bool]:
    """``write_shard`` of each job, in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(theirs,)) as pool:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for this process
        try:
            running = [pool.submit(write_shard, *job) for job in jobs]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield from (done.result() for done in as_completed(running))
        except OSError:  # a full disk: those at work give back their space, too
            pool.shutdown(cancel_futures=True)
            raise
        except BaseException:
            ours.close()  # the workers end at once
            raise


def _begin_worker(stop: Connection) -> None:
    """One thread for each process; none outlives the process that started it, which holds the other end."""
    torch.set_num_threads(1)

    def follow() -> None:
        wait([stop])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _size(path: str) -> int:
    """Of a file, in bytes; 0 for what is none."""
    return os.path.getsize(path) if os.path.isfile(path) else 0
