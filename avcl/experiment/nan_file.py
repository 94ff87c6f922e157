"""``nan.json``: the clips and terms of a loss that is not finite, in the folder of the run that it ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from avcl.errors import UserError
from avcl.experiment.run_folder import RunFolder
from avcl.scenario import Scenario
from avcl.training.diverged import Diverged
from avcl.utils import atomic, distributed


@contextmanager
def noting(folder: RunFolder, scenario: Scenario) -> Iterator[None]:
    """Within this block a loss that is not finite leaves ``nan.json`` (``nan-N.json`` of process N), which it names."""
    try:
        yield
    except Diverged as error:
        rank = distributed.rank()
        path = folder / (f"nan-{rank}.json" if rank else "nan.json")
        names = _names(scenario)
        clips = [{"name": names.get(row["clip"]), **row} for row in error.found["clips"]]
        atomic.write_json(path, {**error.found, "clips": clips})
        raise UserError(f"{error}; its clips and terms are in {path}") from error


def _names(scenario: Scenario) -> dict[int, str]:
    """The files of the clips by their numbers; none where clips are not files."""
    from avcl.data.file_scenario import FileScenario

    return {s.index: s.path for s in scenario.sources("train")} if isinstance(scenario, FileScenario) else {}
