"""What the methods of a table were given: steps, clips and bytes of replay, and whether it was the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avcl.report.runs import FoundRun, Stream
from avcl.training.loading import Batches


def budget_lines(stream: Stream) -> list[str]:
    """A line for each resource: its one value, or which methods had which."""
    facts = {
        method: {"seeds": ", ".join(str(run.seed) for run in runs), **facts_of(runs[0])}
        for method, runs in stream.methods.items()
    }
    names = dict.fromkeys(name for found in facts.values() for name in found)
    return [f"{name}: {_shared({m: found.get(name, 'unknown') for m, found in facts.items()})}" for name in names]


def facts_of(run: FoundRun) -> dict[str, str]:
    """Steps, batch and replay buffer of a run by their names, as far as its folder tells."""
    settings = run.manifest["settings"]
    learner = settings["learner"]
    facts = {
        "optimizer steps": f"{steps_of(run.manifest):,}",
        "current clips a step": str(learner["batch_size"] * learner["accumulate"]),
        "replay buffer": _buffer(settings["strategy"]),
    }
    for key, name in MEASURED.items():
        if key in run.measured:
            value = run.measured[key]
            facts[name] = f"{value:,}" if isinstance(value, int) else f"equal {value}"
    return facts


MEASURED = {"budget": "budget of the sweep", "buffer_bytes": "replay buffer when full, bytes"} | {
    "buffer_clips": "replay buffer when full, clips",
    "clip_passes": "clip passes of the whole run (clips through the backbone, current or replayed)",
}
"""What a sweep wrote down of a method's budget."""


def steps_of(manifest: Mapping[str, Any]) -> int:
    """Optimizer steps over the whole stream, as the learner counts them."""
    learner = manifest["settings"]["learner"]
    size, epochs, drop_last = learner["batch_size"], learner["epochs"], learner["drop_last"]
    tasks = [Batches(clips, size, epochs, 0, 0, drop_last) for clips in manifest["clips"]]
    return sum(batches.per_epoch for batches in tasks) * epochs // learner["accumulate"]


def _buffer(section: Any) -> str:
    """The replay buffers of a method, or of several that ran together."""
    parts: Sequence[Mapping[str, Any]] = section if isinstance(section, list) else [section]
    return " + ".join(_memory(part["memory"]) for part in parts if part.get("memory")) or "none"


def _memory(memory: Mapping[str, Any]) -> str:
    if memory["budget_bytes"] is not None:
        return f"{memory['budget_bytes']:,} bytes"
    return f"bytes of {memory['capacity']:,} whole clips ({memory['dtype']})"


def _shared(values: Mapping[str, str]) -> str:
    groups: dict[str, list[str]] = {}
    for method, value in values.items():
        groups.setdefault(value, []).append(method)
    if len(groups) == 1:
        return f"{next(iter(groups))}, the same for all" if len(values) > 1 else next(iter(groups))
    return "; ".join(f"{value} ({', '.join(methods)})" for value, methods in groups.items())
