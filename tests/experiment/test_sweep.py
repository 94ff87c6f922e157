"""Sweeps: what is planned, run, resumed, refused and told; as `avcl sweep` is typed."""

import json
import re

import pytest
from typer.testing import CliRunner

import avcl.experiment.sweep as sweeps
from avcl.cli.main import app
from avcl.errors import StoppedError
from avcl.experiment.run import Run
from avcl.experiment.sweep import plan

FILE = """
scenario: {name: synthetic, tasks: 2, classes: 1, train_clips: 4, eval_clips: 2, pretraining: 0}
backbone: {name: cav-mae, size: tiny, dim: 24, heads: 2, depth: 1, decoder_dim: 16, decoder_heads: 2}
weights: null
strategy: stella
shared: {memory: {capacity: 8}}
methods: {stella: {heads: 4}, stella-soft: {name: stella, heads: 4, temperature: 1.0}}
learner: {epochs: 1, batch_size: 2, lr: 0.001}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A small run file in the working directory, on a machine of six cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps.joblib, "cpu_count", lambda: 6)
    (tmp_path / "small.yaml").write_text(FILE)
    return tmp_path / "small.yaml"


def sweep(*words):
    return CliRunner().invoke(app, ["sweep", "small.yaml", "--out", "out", *words])


def names(jobs):
    return [job.name for job in jobs]


# ---- planning ----
def test_methods_times_values_times_seeds(file, tmp_path):
    vary = {"strategy.keep_video": [0.5, 0.625], "learner.lr": [0.1]}
    jobs = plan(file, ["er", "stella"], vary, [0, 7], tmp_path / "out")
    assert names(jobs) == [
        *("er-learner.lr=0.1-0", "er-learner.lr=0.1-7"),
        *("stella-keep_video=0.5-learner.lr=0.1-0", "stella-keep_video=0.5-learner.lr=0.1-7"),
        *("stella-keep_video=0.625-learner.lr=0.1-0", "stella-keep_video=0.625-learner.lr=0.1-7"),
    ]
    run = Run.from_config(jobs[-1].raw)
    assert (run.seed, run.strategies[0].keep_video, run.learner_settings["lr"]) == (7, 0.625, 0.1)
    assert run.strategies[0].heads == 4 and run.strategies[0].memory.capacity == 8, "the method's own, and the shared"


def test_without_methods_it_is_the_files_own(file, tmp_path):
    assert names(plan(file, [], {}, [0], tmp_path)) == ["stella-0"]


def test_a_variant_keeps_its_name(file, tmp_path):
    (job,) = plan(file, ["stella-soft"], {}, [3], tmp_path)
    run = Run.from_config(job.raw)
    assert (job.name, run.method, run.strategies[0].name) == ("stella-soft-3", "stella-soft", "stella")


def test_values_may_be_lists_and_names(file, tmp_path):
    vary = {"learner.betas": [[0.9, 0.99]], "strategy.select_by": ["both", "importance"]}
    assert names(plan(file, ["stella"], vary, [0], tmp_path)) == [
        "stella-learner.betas=[0.9,0.99]-select_by=both-0",
        "stella-learner.betas=[0.9,0.99]-select_by=importance-0",
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--vary", "strategy.keep_vidio=1"],
            "--vary strategy.keep_vidio: no method of this sweep has it; did you mean",
        ),
        (["--vary", "strategy.keep_video=2"], "strategy.keep_video: invalid value 2"),
        (["--vary", "learner.lr"], "--vary learner.lr: must be key=value,value,..., as in learner.lr=1e-3,1e-4"),
        (["--vary", "learner.lr=[1"], "--vary learner.lr=[1: not valid YAML"),
        (["--vary", "seed=1,2"], "--vary seed: varied by --seeds"),
        (["--methods", "er", "stela"], "strategy: unknown strategy 'stela'; did you mean 'stella'?"),
        (["--methods", "er,mir", "--against", "miir"], "--against miir: not among --methods; did you mean 'mir'?"),
        (["--seeds", "0"], "--seeds 0: must be 1 or more"),
        (["--seeds", "a"], "--seeds a: must be how many, as 5, or which ones, as 20,21"),
        (["--budget", "flops"], "--budget flops: unknown budget; allowed: bytes, passes, steps"),
        (["--set", "learner.lrr=1"], "learner.lrr: unknown setting; did you mean 'lr'?"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(file, tmp_path, words, told):
    done = sweep(*words)
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [file])
    assert done.output.startswith(f"avcl: {told}") and len(done.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["2"], ["0", "1"]),
        (["20,21"], ["20", "21"]),
        (["20", "21", "20"], ["20", "21"]),
        (["20,"], ["20"]),
        ([], ["0", "1", "2"]),
    ],
)
def test_seeds_are_how_many_or_which(file, tmp_path, words, seeds):
    done = sweep("--methods", "finetune", *(["--seeds", *words] if words else []), "--dry-run")
    assert re.findall(r"out/finetune-(\d+)", done.output) == seeds
    assert list(tmp_path.iterdir()) == [file], "a plan writes nothing"


# ---- running ----
def test_runs_every_job_once_and_compares_them(file, tmp_path):
    words = ["--methods", "er", "stella", "--vary", "strategy.keep_video=0.625", "--seeds", "2", "--jobs", "2"]
    done = sweep(*words, "--against", "er")
    assert done.exit_code == 0, done.output
    expected = [f"{method}-{seed}" for method in ("er", "stella-keep_video=0.625") for seed in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*expected, "logs", "sweep.json"])
    assert sorted(path.stem for path in (tmp_path / "out" / "logs").iterdir()) == sorted(expected)
    told = (tmp_path / "out" / "logs" / "er-0.log").read_text()
    assert told.startswith("avcl: out/er-0: on 3 threads\n"), "each of two processes takes half of the cores"
    assert "task 2/2 family_2" in told
    assert "budget: equal steps (" in done.output and "synthetic: 4 runs of 2 methods" in done.output
    assert sum(line.split()[:1] == ["er"] for line in done.output.splitlines()) == 3
    note = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (note["seeds"], note["vary"]) == ([0, 1], {"strategy.keep_video": [0.625]})
    assert list(note["runs"]) == expected and {run["state"] for run in note["runs"].values()} == {"finished"}
    alone = CliRunner().invoke(app, ["train", "small.yaml", "--strategy", "er", "--set", "seed=1", "--out", "alone"])
    assert alone.exit_code == 0
    found = (json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("alone", "out/er-1"))
    one, other = (metrics["retrieval"] for metrics in found)  # sums of another number of threads may round otherwise
    assert one == other, "in a process of its own it is the same run"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("r*.json")}
    again = sweep(*words, "--against", "er")
    assert again.output == done.output and again.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("r*.json")} == before


def test_what_was_killed_is_resumed_to_the_same_results(file, tmp_path):
    assert sweep("--methods", "derpp", "--seeds", "2").exit_code == 0
    folder = tmp_path / "out" / "derpp-1"
    whole = (folder / "results.json").read_bytes()
    for name in ("README.md", "weights.safetensors"):
        (folder / name).unlink()
    plan_ = sweep("--methods", "derpp", "--seeds", "2", "--dry-run").output
    assert re.findall(r"derpp-\d +derpp +\d +(\w+)", plan_) == ["finished", "stopped"]
    assert sweep("--methods", "derpp", "--seeds", "2").exit_code == 0
    assert (folder / "results.json").read_bytes() == whole and (folder / "README.md").exists()
    assert len(json.loads((folder / "run.json").read_text())["resumed"]) == 1


def test_a_folder_with_other_settings_is_refused_in_a_line(file, tmp_path):
    assert sweep("--methods", "er", "--seeds", "0,").exit_code == 0
    before = sorted(tmp_path.rglob("*"))
    done = sweep("--methods", "finetune", "er", "--seeds", "0,", "--set", "learner.lr=0.5")
    assert done.exit_code == 2
    assert done.output == (
        "avcl: out/er-0: holds a run with other settings (learner.lr: 0.001 there, 0.5 now); remove it, or choose "
        "another --out\n"
    )
    assert sorted(tmp_path.rglob("*")) == before, "nothing has started"
    more = ["--set", "learner.workers=1", "--set", "learner.max_bad_share=0.5"]
    assert sweep("--methods", "er", "--seeds", "0,", *more).exit_code == 0, "what cannot change a result may differ"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_fails_does_not_stop_the_others(file, tmp_path, jobs):
    (tmp_path / "out" / "er-1").mkdir(parents=True)
    (tmp_path / "out" / "er-1" / "mine.txt").write_text("")
    done = sweep("--methods", "er", "--seeds", "3", "--jobs", jobs)
    assert done.exit_code == 2
    told = "out/er-1: holds other files than a run's (mine.txt); choose an empty folder with --out"
    assert done.output.splitlines()[-1] == f"avcl: er-1 failed: {told}"
    assert "seeds: 0, 2" in done.output
    runs = json.loads((tmp_path / "out" / "sweep.json").read_text())["runs"]
    assert {name: (run["state"], run.get("error")) for name, run in runs.items()} == {
        "er-0": ("finished", None),
        "er-1": ("new", told),
        "er-2": ("finished", None),
    }


def test_an_error_that_is_not_the_users_is_named_too(file, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "train", lambda *_, **__: 1 / 0)
    done = sweep("--methods", "er", "--seeds", "0,")
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == "avcl: er-0 failed: ZeroDivisionError: division by zero"


def test_a_signal_stops_the_sweep_not_one_run(file, tmp_path, monkeypatch):
    started = []

    def stopped(run, resume):
        started.append(run.folder.path.name)
        raise StoppedError("stopped by SIGINT after step 1; continue with --resume")

    monkeypatch.setattr(Run, "train", stopped)
    done = sweep("--methods", "er", "--seeds", "3")
    assert (done.exit_code, started) == (0, ["er-0"]), "a stop is no error, as of one run"
    assert done.output.endswith("avcl: stopped by SIGINT after step 1; continue with --resume\n")
    assert (tmp_path / "out" / "sweep.json").exists()


def test_a_sweep_of_nothing_new_starts_no_processes(file, monkeypatch):
    assert sweep("--methods", "finetune", "--seeds", "2").exit_code == 0
    monkeypatch.setattr(sweeps.joblib, "Parallel", lambda *_, **__: pytest.fail("started"))
    assert sweep("--methods", "finetune", "--seeds", "2", "--jobs", "2").exit_code == 0


def test_a_value_given_twice_is_one_run(file, tmp_path):
    assert names(plan(file, ["er", "er"], {"learner.lr": [0.001, 1e-3]}, [0], tmp_path)) == ["er-learner.lr=0.001-0"]


@pytest.mark.parametrize("tasks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_slurm_jobs_by_submitits_local_executor(file, tmp_path, monkeypatch, tasks):
    """As on a cluster, in so many processes a run; one run fails, the other comes to the same results as without."""
    words = ["--methods", "er", "--seeds", "2"]
    assert sweep(*words).exit_code == 0
    whole = (tmp_path / "out" / "er-1" / "results.json").read_bytes()
    (tmp_path / "out").rename(tmp_path / "before")
    (tmp_path / "out" / "er-0").mkdir(parents=True)
    (tmp_path / "out" / "er-0" / "note.txt").write_text("not a run's")
    done = sweep(*words, "--slurm", "cluster=local", "timeout_min=5", f"tasks_per_node={tasks}")
    assert done.exit_code == 2
    assert "er-0 failed: out/er-0: holds other files than a run's (note.txt)" in done.stderr
    found, expected = json.loads((tmp_path / "out" / "er-1" / "results.json").read_text()), json.loads(whole)
    assert found["metrics"]["retrieval"] == expected["metrics"]["retrieval"]
    assert json.loads((tmp_path / "out" / "er-1" / "run.json").read_text())["processes"] == tasks
    assert any("task 2/2 family_2" in path.read_text() for path in (tmp_path / "out" / "logs").rglob("*.err"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["timeout_min=5"], "avcl: --slurm: "),
        (["cluster=local", "timeoutmin=5"], "avcl: --slurm: "),
        (["timeout_min"], "avcl: --slurm timeout_min: must be key=value, as in timeout_min=600"),
    ],
)
def test_slurm_that_is_not_there_or_not_asked_rightly_is_one_line(file, words, told):
    done = sweep("--methods", "er", "--seeds", "0,", "--slurm", *words)
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1].startswith(told)
