"""Makes a store, shard by shard: each is written aside, renamed when it is whole, and never made twice."""

import fcntl
import hashlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from PIL import Image

from avcl.errors import BadClip, UserError
from avcl.media import decode, transforms
from avcl.media.files import Source, inspect
from avcl.media.scenario import SPLITS, FromFiles
from avcl.media.store import FACTS, SCHEMA, Form, read_shard

log = logging.getLogger(__name__)

MEMORY = 2**28  # bytes of decoded pictures that one process holds at a time


class Clip(NamedTuple):
    """One clip to be kept, and the names of where it belongs."""

    split: str
    task: str
    label: str
    source: Source


def clips_of(scenario: FromFiles) -> list[Clip]:
    """All clips of a scenario that are there, those to pre-train on included."""
    found = [
        Clip(split, scenario.task_names[source.task], scenario.class_names[source.label], source)
        for split in SPLITS
        for source in scenario.sources(split)
    ]
    spare: Any = scenario.pretraining_clips()
    return found + [Clip("pretraining", "", "", source) for source in (spare.sources if spare else ())]


class Making:
    """A store in the making: its plan, and which shards are there."""

    def __init__(self, folder: str | Path, clips: Sequence[Clip], form: Form, per_shard: int = 64):
        self.folder, self.form = Path(folder).expanduser(), form
        self.parts = [list(clips[start : start + per_shard]) for start in range(0, len(clips), per_shard)]
        listing = hashlib.sha256()
        for clip in clips:
            text = "\t".join((*clip[:3], clip.source.name, clip.source.path, str(clip.source.index)))
            listing.update(text.encode(errors="surrogateescape") + b"\n")
        self.plan = {"version": 1, "clips": len(clips), "per_shard": per_shard, "listing": listing.hexdigest()}
        self.plan |= {"form": asdict(form)}

    def claim(self) -> None:
        """Make the folder; UserError where it is another store or something else."""
        try:
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made: {error.strerror}") from None
        path = self.folder / "plan.json"
        if path.exists():
            differ = different(json.loads(path.read_text()), self.plan)
            if differ:
                raise UserError(f"{self.folder}: was begun for something else ({differ}); choose another folder")
        else:
            write_json(path, self.plan)

    def shards(self, share: int = 1, of: int = 1) -> list[int]:
        """The numbers of the shards that are still to be made, of every ``of`` the ``share``-th."""
        mine = range(share - 1, len(self.parts), of)
        return [number for number in mine if not shard_path(self.folder, number).exists()]

    def make(self, numbers: Sequence[int], workers: int) -> Iterator[bool]:
        """Make shards; says of each whether it is there, or another process is at it. UserError at a full disk."""
        jobs = [(self.folder, number, self.parts[number], self.form) for number in numbers]
        try:
            if workers <= 1:
                yield from (write_shard(*job) for job in jobs)
                return
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, initializer=_begin_worker) as pool:
                running = [pool.submit(write_shard, *job) for job in jobs]
                try:
                    yield from (done.result() for done in as_completed(running))
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
        except BrokenProcessPool:
            raise UserError(f"{self.folder}: a worker was killed, maybe for want of memory; {self._rest()}") from None
        except OSError as error:
            raise UserError(f"{self.folder}: {(error.strerror or str(error)).lower()}; {self._rest()}") from None

    def _rest(self) -> str:
        total = len(self.parts)
        return f"{total - len(self.shards())} of {total} shards are finished; the same command goes on"


def finish(folder: Path) -> dict[str, Any]:
    """Write ``store.json`` once every shard is there and whole; UserError before that."""
    try:
        plan = json.loads((folder / "plan.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{folder}: is no store in the making: it has no plan.json") from None
    total = -(-plan["clips"] // plan["per_shard"])
    paths = [shard_path(folder, number) for number in range(total)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        told = f"{len(missing)} of {total} shards are missing, the first is {missing[0]}"
        raise UserError(f"{folder}: {told}; prepare them, or merge the folders that have them")
    shards, quarantined = [], []
    for number, path in enumerate(paths):
        table = read_shard(path).select([*FACTS, "reason"])
        rows = min(plan["per_shard"], plan["clips"] - number * plan["per_shard"])
        if table.num_rows != rows:
            raise UserError(f"{path}: has {table.num_rows} clips, not {rows}; remove it and prepare again")
        shards.append({"file": f"shards/{path.name}", "bytes": path.stat().st_size, "clips": rows})
        quarantined += [row for row in table.to_pylist() if row["reason"]]
    facts = {**plan, "shards": shards, "quarantined": quarantined}
    kinds = {field.name: _feature(field.type) for field in SCHEMA}
    write_json(folder / "dataset_info.json", {"features": kinds})
    files = [{"filename": shard["file"]} for shard in shards]
    state = {"_data_files": files, "_fingerprint": plan["listing"][:16], "_format_columns": None, "_format_kwargs": {}}
    write_json(folder / "state.json", state | {"_format_type": None, "_output_all_columns": False, "_split": None})
    write_json(folder / "store.json", facts)
    return facts


def merge(parts: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Bring the shards of stores with one plan together in ``folder``, and finish it."""
    plans = {}
    for part in parts:
        try:
            plans[part] = json.loads((part / "plan.json").read_text())
        except (OSError, ValueError):
            raise UserError(f"{part}: is no store in the making: it has no plan.json") from None
        differ = different(plans[parts[0]], plans[part])
        if differ:
            raise UserError(f"{part}: is of another plan than {parts[0]} ({differ}); only parts of one store merge")
    try:
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        if not (folder / "plan.json").exists():
            write_json(folder / "plan.json", plans[parts[0]])
        elif differ := different(json.loads((folder / "plan.json").read_text()), plans[parts[0]]):
            raise UserError(f"{folder}: is of another plan than {parts[0]} ({differ}); choose another folder")
        for path in (path for part in parts for path in sorted((part / "shards").glob("*.arrow"))):
            home = folder / "shards" / path.name
            if not home.exists():
                aside = home.with_name(home.name + ".merging")
                shutil.copyfile(path, aside)
                os.replace(aside, home)
    except OSError as error:
        raise UserError(f"{folder}: {(error.strerror or str(error)).lower()}; the same command goes on") from None
    return finish(folder)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / "shards" / f"{number:05d}.arrow"


def different(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In what two plans differ, in words; empty where they do not."""
    one, other = ({**plan, **plan.get("form", {}), "form": None} for plan in (one, other))
    told = {"listing": "other clips"}
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    return ", ".join(told.get(key, f"{key} {one.get(key)} and {other.get(key)}") for key in keys)


def write_json(path: Path, content: Any) -> None:
    """Write aside and rename; what is written is on the disk before it has its name."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.writing")
    with aside.open("w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write_shard(folder: Path, number: int, clips: Sequence[Clip], form: Form) -> bool:
    """Decode clips into one Arrow file; False where another process is at it."""
    home = shard_path(folder, number)
    aside = home.with_name(home.name + ".writing")
    with open(os.open(aside, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        # Whoever holds the lock makes the shard. A killed process loses it, and its half file is begun anew.
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if home.exists():  # another process finished it in the meantime, maybe by renaming this very file
            return True
        file.truncate(0)
        try:
            with pa.ipc.new_stream(file, SCHEMA) as writer:
                for clip in clips:
                    writer.write_batch(pa.RecordBatch.from_pylist([encode(clip, form)], SCHEMA))
            file.flush()
            os.fsync(file.fileno())
        except OSError:  # a full disk needs its space back
            aside.unlink()
            raise
        os.replace(aside, home)
    return True


def encode(clip: Clip, form: Form) -> dict[str, Any]:
    """The row of a clip; one that cannot be decoded has its reason."""
    source = clip.source
    texts = (clip.split, clip.task, clip.label, source.name, source.path)  # file names may hold any bytes
    row: dict[str, Any] = dict(zip(FACTS, (os.fsencode(text).decode(errors="replace") for text in texts), strict=False))
    row |= {"index": source.index}
    row |= {"digest": source.digest(), "reason": "", "video": None, "audio": None, "frames": [], "sound": b""}
    try:
        found = inspect(source, 0.0, form.seconds)
        row |= {"video": found.video, "audio": found.audio}
        wave = source.sound(form.seconds)
        row["frames"] = list(_frames(source, found, form))
        row["sound"] = (wave * 2**15).to(torch.int16).numpy().tobytes()
    except BadClip as bad:
        row |= {"reason": bad.reason, "frames": []}
    return row


def _frames(source: Source, found: decode.Probe, form: Form) -> Iterator[bytes]:
    """Every picture of the clip at the rate of the store, coded; large ones are decoded a few at a time."""
    count = max(1, round(min(found.video or 0.0, form.seconds) * form.rate))
    step = max(8, MEMORY // (3 * max(1, found.width * found.height)))
    for start in range(0, count, step):
        times = [number / form.rate for number in range(start, min(start + step, count))]
        for picture in transforms.shrink(source.pictures(times), form.height, form.width):
            coded = io.BytesIO()
            image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
            image.save(coded, form.codec, **({"quality": form.quality} if form.codec == "jpeg" else {}))
            yield coded.getvalue()


def _begin_worker() -> None:
    """One thread for each process; none outlives the process that started it."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        wait([parent.sentinel] if parent else [])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """How Hugging Face's ``dataset_info.json`` writes a type."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
