"""Pre-decodes a scenario into a store, and joins the parts of one: ``avcl data prepare`` and ``merge``."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from avcl.data import transforms
from avcl.data.file_scenario import FileScenario
from avcl.data.store.format import Facts, Form, hashed, read_facts, shard_name
from avcl.data.store.seal import damaged, file_hash, reported, shard_hash
from avcl.data.store.shard import INDEX, SCHEMA
from avcl.data.store.write import Making, copy, different, keep, planned, read_plan, shard_path, strerror
from avcl.errors import UserError
from avcl.utils.atomic import replacing, tidy, write_json
from avcl.utils.console import shown

ELSEWHERE = ", another process is writing some; rerun the same command to look again"


def pre_decode(
    scenario: FileScenario,
    folder: Path,
    *,
    share: int = 1,
    of: int = 1,
    workers: int = 1,
    rate: float = 8.0,
    codec: Literal["jpeg", "png"] = "jpeg",
    quality: int = 90,
    per_shard: int | None = None,
) -> Iterator[str]:
    """Decode all clips of a scenario once, into a store that it can read; yields what there is to say.

    ``share``, ``of``: make only this part of the shards · ``rate``: frames a second, of the size from which
    training crops · ``quality``: of JPEG; PNG loses nothing. Finished shards are never made again.
    """
    if scenario.store:
        raise UserError("scenario.store: a store is made of files; leave it out to prepare one")
    clips = scenario.records()
    if not clips:
        tasks = ", ".join(scenario.task_names)
        raise UserError(f"scenario: {scenario.name!r} has no clip of {tasks}; `avcl data check` counts what is there")
    height, width = transforms.store_size(scenario.height, scenario.width)
    form = Form(height, width, rate, scenario.seconds, codec, quality if codec == "jpeg" else 0)
    making = Making(folder, clips, form, per_shard, scenario.selection)
    making.begin(scenario.lists)
    todo, total = making.missing(share, of), len(making.shards)
    begun = time.monotonic()
    made = list(shown(making.make(todo, workers), len(todo), "preparing shards"))
    if todo:
        count = sum(len(making.shards[number]) for number in todo)
        speed = count / (time.monotonic() - begun)
        yield f"{count:,} of {len(clips):,} clips in {len(todo)} of {total} shards, {speed:.1f} clips a second"
    left = len(making.missing())
    if not left:
        yield from _summary(folder, finish(making.folder))
    elif all(made) and of > 1:
        others = f"{left} of {total} shards are left to other parts"
        yield f"{folder}: part {share}/{of} is finished; {others}; `avcl data merge` joins parts of different folders"
    else:
        yield f"{folder}: not complete, {left} of {total} shards are missing{'' if all(made) else ELSEWHERE}"


def merge_parts(parts: Sequence[Path], folder: Path) -> Iterator[str]:
    """Bring the shards of stores with one plan together in ``folder``, and finish it; yields what there is to say."""
    plans = {part: read_plan(part) for part in parts}
    for part, plan in plans.items():
        if differ := different(plans[parts[0]], plan):
            raise UserError(f"{part}: is of another plan than {parts[0]} ({differ}); only parts of one store merge")
    if differ := different(planned(folder, plans[parts[0]]), plans[parts[0]]):
        raise UserError(f"{folder}: is of another plan than {parts[0]} ({differ}); choose another folder")
    try:
        shards = {path.name: path for part in parts for path in _files(part, "shards/[0-9]*.arrow")}
        for name, path in shards.items():
            copy(path, folder / "shards" / name)
        lists = _files(parts[0], "lists/**/*")
        keep({str(path.relative_to(parts[0] / "lists")): path for path in lists}, folder)
    except OSError as error:
        raise UserError(f"{folder}: {strerror(error)}; rerun the same command to resume") from None
    if left := [name for name in shards if not (folder / "shards" / name).exists()]:  # what we could copy, but did not
        yield f"{folder}: not complete, {len(left)} of {len(shards)} shards are missing{ELSEWHERE}"
    else:
        yield from _summary(folder, finish(folder))


def finish(folder: Path) -> dict[str, Any]:
    """Write the index and ``store.json`` once every shard is there and whole; UserError before that."""
    plan = read_plan(folder)
    total = -(-plan["clips"] // plan["per_shard"])
    stems = [path.stem for path in (folder / "shards").glob("[0-9]*.arrow")]
    there = {int(stem) for stem in stems if stem.isdecimal() and int(stem) < total}
    first = next((number for number in range(total) if number not in there), None)
    if first is not None:
        lacks = f"{total - len(there)} of {total} shards are missing, the first is {shard_path(folder, first).name}"
        raise UserError(f"{folder}: {lacks}; prepare them, or merge the folders that have them")
    paths = [shard_path(folder, number) for number in range(total)]
    shards, tables, quarantined = [], [], []
    known = _known(folder)
    for number, path in enumerate(shown(paths, total, "reading through shards")):
        sha256, sealed = shard_hash(path)
        if not sealed and known.get(shard_name(number), sha256) != sha256:
            raise damaged(path, "its SHA-256 is not that of store.json")
        table = _facts_of(path)
        rows = min(plan["per_shard"], plan["clips"] - number * plan["per_shard"])
        if table.num_rows != rows:
            raise UserError(f"{path}: has {table.num_rows} clips, not {rows}; remove it and prepare again")
        shards.append({"file": shard_name(number), "bytes": path.stat().st_size, "clips": rows, "sha256": sha256})
        tables.append(table)
        quarantined += [row for row in table.drop_columns(["video", "audio"]).to_pylist() if row["reason"]]
    facts = {**plan, "shards": shards, "quarantined": quarantined}
    kinds = {field.name: _feature(field.type) for field in SCHEMA}
    state = {"_data_files": [{"filename": shard["file"]} for shard in shards], "_fingerprint": plan["listing"][:16]}
    state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False}
    try:
        for path in (folder / "plan.json", *paths):
            tidy(path)
        with replacing(folder / "index.arrow") as file, pa.ipc.new_stream(file, tables[0].schema) as writer:
            writer.write_table(pa.concat_tables(tables))
        write_json(folder / "dataset_info.json", {"features": kinds})
        write_json(folder / "state.json", state | {"_split": None})
        others = ["plan.json", "index.arrow", "dataset_info.json", "state.json"]
        others += [str(path.relative_to(folder)) for path in _files(folder, "lists/**/*")]
        facts = hashed(facts | {"files": {name: file_hash(folder / name) for name in others}})
        write_json(folder / "store.json", facts)
    except OSError as error:
        finished = "all shards are finished; rerun the same command to resume"
        raise UserError(f"{folder}: {strerror(error)}; {finished}") from None
    return facts


def _files(part: Path, pattern: str) -> list[Path]:
    """The files of a store in the making; UserError where a link leads out of it: others may have laid it."""
    half = (".lock", ".writing")  # another process is at it
    found = [path for path in sorted(part.glob(pattern)) if not path.is_dir() and path.suffix not in half]
    for path in found:
        if not path.resolve().is_relative_to(part.resolve()) or not path.is_file():
            raise UserError(f"{path}: leads out of {part}, or is no file; put the file itself there")
    return found


def _known(folder: Path) -> dict[str, str]:
    """The SHA-256 of the shards of a store that was complete before."""
    try:
        return {shard["file"]: shard["sha256"] for shard in read_facts(folder / "store.json", Facts)["shards"]}
    except (OSError, ValueError, KeyError):
        return {}


def _facts_of(path: Path) -> pa.Table:
    """All of a shard's clips but frames and sound."""
    with reported(path), pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        if stream.schema != SCHEMA:
            raise ValueError("it has other columns")
        # as copies: a batch's columns would hold all of it
        rows = [row for batch in stream for row in batch.select(list(INDEX)).to_pylist()]
        return pa.Table.from_pylist(rows, pa.schema([SCHEMA.field(name) for name in INDEX]))


def _summary(folder: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    size = sum(shard["bytes"] for shard in facts["shards"])
    kept = max(1, facts["clips"] - len(facts["quarantined"]))
    reasons = Counter(re.sub(r"\d+(\.\d+)?", "#", row["reason"]) for row in facts["quarantined"])
    for reason, times in reasons.most_common():
        yield f"{times:,} of {facts['clips']:,} clips cannot be decoded: {reason}"
    yield f"{folder}: complete, {facts['clips']:,} clips, {size / kept / 1e6:.3f} MB a usable clip"


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """How Hugging Face's ``dataset_info.json`` writes a type."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}
