"""Many runs of one file: methods, settings that vary and seeds, planned, run in parallel, resumed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import joblib
import torch

from avcl.config.build import components_of, method_settings
from avcl.config.files import assigned, read_config
from avcl.errors import StoppedError, UserError, nearest, printable
from avcl.experiment.manifest import other_settings
from avcl.experiment.run import Run
from avcl.experiment.run_folder import RunFolder
from avcl.experiment.signals import Stopping
from avcl.registry import line_of
from avcl.report.sheet import Cell, Sheet
from avcl.utils import atomic, lines

log = logging.getLogger(__name__)

PLAN = "sweep.json"
"""The file in a sweep's folder that says what was planned, and what became of it."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its ``method`` with the settings ``varied``, its ``seed``, and the whole configuration."""

    method: str
    varied: Mapping[str, Any]
    seed: int
    raw: Mapping[str, Any]

    @property
    def folder(self) -> RunFolder:
        """Its run folder."""
        return RunFolder(self.raw["out"])

    @property
    def name(self) -> str:
        """What the run folder is called."""
        return self.folder.path.name

    @property
    def variant(self) -> str:
        """Method and settings: what its runs of all seeds have in common."""
        return variant(self.method, self.varied)

    @property
    def state(self) -> Literal["new", "stopped", "finished"]:
        """What its run folder holds."""
        return "finished" if self.folder.finished else "stopped" if self.folder.checkpoints else "new"


def plan(
    config: Path,
    methods: Sequence[str],
    vary: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    out: Path,
    sets: Iterable[str] = (),
) -> list[Job]:
    """Every method with every combination of values and every seed; ``methods`` empty for the file's own.

    A setting of the strategy is varied for those methods that have it. UserError for whatever is wrong in any of the
    runs, before one of them starts.
    """
    for key, instead in (("seed", "--seeds"), ("out", "--out"), ("strategy", "--methods")):
        if key in vary:
            raise UserError(f"--vary {key}: varied by {instead}")
    jobs: dict[str, Job] = {}
    known: dict[str, None] = {}
    for name in dict.fromkeys(methods or [""]):
        raw = read_config(config, sets, name)
        has = dict(_keys(method_settings(raw)["strategy"], "strategy"))
        known |= dict.fromkeys(has)
        mine = {key: vary[key] for key in vary if not key.startswith("strategy.") or key in has}
        for values in itertools.product(*mine.values()):
            varied = dict(zip(mine, values, strict=True))
            changed = assigned(raw, varied)
            made = components_of(changed)
            method = name or made["method"]
            for seed in seeds:
                folder = str(out / f"{variant(method, varied, '-')}-{seed}")
                jobs[folder] = Job(method, varied, seed, {**changed, "seed": seed, "out": folder})
    for key in vary:
        if key.startswith("strategy.") and key not in known:
            raise UserError(f"--vary {key}: no method of this sweep has it{nearest(key, known)}")
    return list(jobs.values())


def variant(method: str, varied: Mapping[str, Any], between: str = " ") -> str:
    """``"stella keep_video=0.5"``: a method and the settings in which it differs from others of its name."""
    told = [f"{key.removeprefix('strategy.')}={_said(value)}" for key, value in varied.items()]
    return between.join([method, *told])


def refuse_others(jobs: Iterable[Job]) -> None:
    """UserError where a run folder holds a run with other settings."""
    resolved: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if (job.folder / "run.json").exists():
            if job.variant not in resolved:
                resolved[job.variant] = components_of(job.raw)["settings"]
            now = {**resolved[job.variant], "seed": job.seed}
            if wrong := other_settings(job.folder.manifest["settings"], now):
                raise UserError(
                    f"{job.folder}: holds a run with other settings ({'; '.join(wrong)}); remove it, or choose another "
                    "--out"
                )


def table(jobs: Iterable[Job]) -> Sheet:
    """The plan, a row for each run."""
    rows = [(str(job.folder), [Cell(text=job.variant), Cell(text=str(job.seed)), Cell(text=job.state)]) for job in jobs]
    return Sheet("run folder", ["method", "seed", "state"], {"": rows})


def run_all(
    jobs: Sequence[Job], parallel: int, note: Mapping[str, Any], out: Path, slurm: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Train what is not finished, ``parallel`` runs at a time; returns what went wrong, by the name of the run.

    A run that fails does not stop the others. ``note`` is kept in ``sweep.json``, with what became of each run. With
    several at a time each says what it has to say in ``logs/NAME.log``. ``slurm``: options of submitit's, by which each
    run is a job of a cluster, logged in ``logs/`` by its number. A signal to stop ends in StoppedError, and
    leaves what can be resumed by the same command.
    """
    out.mkdir(parents=True, exist_ok=True)
    wrong: dict[str, str] = {}
    _write(out, note, jobs, wrong)
    todo = [job for job in jobs if job.state != "finished"]
    try:
        trained = _trained(todo, parallel, out) if slurm is None else _submitted(todo, parallel, out, slurm)
        for done, (job, told) in enumerate(trained, 1):
            log.info("%s: %s (%d of %d)", job.folder, told or "finished", done, len(todo))
            if told:
                wrong[job.name] = told
            _write(out, note, jobs, wrong)
    finally:
        _write(out, note, jobs, wrong)
    return wrong


def train_job(job: Job) -> str:
    """Train what is left of it; returns what went wrong in one line, empty where nothing did."""
    try:
        Run.from_config(job.raw).train(resume=job.state == "stopped")
    except StoppedError:
        raise
    except (Exception, SystemExit) as error:  # whatever it is, the other runs go on
        if told := line_of(error):
            return told.partition("\n")[0]
        sys.stderr.write(printable(traceback.format_exc()))
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return ""


def _trained(jobs: Sequence[Job], parallel: int, out: Path) -> Iterator[tuple[Job, str]]:
    if parallel == 1 or len(jobs) < 2:
        for job in jobs:
            log.info("%s: %s", job.folder, "resumed" if job.state == "stopped" else "started")
            yield job, train_job(job)
        return
    threads = max(1, joblib.cpu_count() // parallel)
    logs = out / "logs"
    logs.mkdir(exist_ok=True)
    with Stopping() as stopping, joblib.parallel_config("loky", inner_max_num_threads=threads):
        # the next run is asked for when one has ended: none is started behind a signal
        here = Path.cwd()
        calls = (joblib.delayed(_apart)(job, threads, here, logs) for job in jobs if not stopping.asked)
        pool = joblib.Parallel(parallel, batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")
        stopped = ""
        for job, told, was_stopped in pool(calls):
            stopped = told if was_stopped else stopped
            yield job, told
        if stopped or stopping.asked:
            raise StoppedError(f"stopped ({stopped or stopping.asked}); continue with the same command")


def _apart(job: Job, threads: int, here: Path, logs: Path) -> tuple[Job, str, bool]:
    """In a process of its own, which may have been another sweep's: so many threads, and a file for what it says."""
    os.chdir(here)
    torch.set_num_threads(threads)
    with (logs / f"{job.name}.log").open("a", encoding="utf-8") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        lines.log(logging.INFO, anew=True)
        log.info("%s: on %d threads", job.folder, torch.get_num_threads())
        try:
            return job, train_job(job), False
        except StoppedError as stopped:
            return job, str(stopped), True


def _submitted(jobs: Sequence[Job], parallel: int, out: Path, options: Mapping[str, Any]) -> Iterator[tuple[Job, str]]:
    """Each run as a job of Slurm's, in an array of which ``parallel`` run at a time, if that is more than one."""
    try:
        import submitit
    except ImportError:
        raise UserError("--slurm needs a missing package; run `python -m pip install submitit`") from None
    cluster = str(options.get("cluster", "slurm"))
    settings = {key: value for key, value in options.items() if key != "cluster"}
    if cluster == "slurm" and parallel > 1:
        settings["slurm_array_parallelism"] = parallel
    try:
        executor = submitit.AutoExecutor(folder=out / "logs", cluster=cluster)
        executor.update_parameters(**settings)
        with executor.batch():
            pending = {executor.submit(_there, job, Path.cwd()): job for job in jobs}
    except (NameError, TypeError, ValueError, RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"--slurm: {' '.join(str(error).split())}") from None
    log.info("%d jobs are submitted to %s; their output is in %s", len(pending), cluster, out / "logs")
    for job in submitit.helpers.as_completed(list(pending)):
        failed = job.exception()
        yield pending[job], job.results()[0] if failed is None else str(failed).strip().splitlines()[-1]


def _there(job: Job, here: Path) -> str:
    """On a node of the cluster, in the folder where the sweep was started; with several tasks, as one of them."""
    import submitit

    os.chdir(here)
    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export()
    lines.log(logging.INFO, anew=True)
    try:
        return train_job(job)
    except StoppedError as stopped:
        return str(stopped)


def _write(out: Path, note: Mapping[str, Any], jobs: Iterable[Job], wrong: Mapping[str, str]) -> None:
    runs = {
        job.name: {"method": job.method, "varied": dict(job.varied), "seed": job.seed, "state": job.state}
        | ({"error": wrong[job.name]} if job.name in wrong else {})
        for job in jobs
    }
    atomic.write_json(out / PLAN, {**note, "runs": runs})


def _keys(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every full key of nested settings, those of sections too."""
    parts = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, value in parts:
        yield f"{key}.{name}", value
        yield from _keys(value, f"{key}.{name}")


def _said(value: Any) -> str:
    """A value in a label and in a file name."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text.replace(os.sep, "_")


def replaced(job: Job, values: Mapping[str, Any]) -> Job:
    """The same run with other values of some settings, in the same folder."""
    return replace(job, raw=assigned(job.raw, values))
