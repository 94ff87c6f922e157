"""Each method's own settings: what a run file says of it by name, and what all methods of the file share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from avcl.config.files import merged
from avcl.settings import fields

log = logging.getLogger(__name__)


def with_strategy(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The run ``raw`` with the method ``name`` and that method's own settings.

    Of the settings that the file's ``strategy`` has, another method takes over those of the replay buffer alone,
    which mean the same for all: ``memory``, ``replay``, ``contrastive_scope``. Everything else comes from the
    file's ``methods`` and ``shared``, or is the method's default.
    """
    from avcl.strategy import Rehearsal

    section = raw.get("strategy")
    first = section[0] if isinstance(section, list) and section else section
    if name == first or not isinstance(first, Mapping):
        return {**raw, "strategy": name}
    if first.get("name") == name:
        return {**raw, "strategy": dict(first)}
    common = fields(Rehearsal)
    kept = {key: value for key, value in first.items() if key in common}
    dropped = [key for key in first if key not in (*common, "name")]
    if dropped:
        log.info("strategy %s: without %s of %s", name, ", ".join(dropped), first.get("name", "the run file"))
    shared = raw.get("shared") or {}
    return {**raw, "strategy": name, "shared": merged(shared, kept) if isinstance(shared, Mapping) else shared}
