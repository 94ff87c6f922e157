"""A plugin that raises in any verb or hook, under the command: a line with its name, distribution and verb, code 2."""

import pytest
from helpers.damage import PROPERTIES, VERBS, avcl, faulty, run_file

__all__ = ["faulty"]

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("faulty")]

PLACES = {
    "strategy": "strategy.at={}",
    "scenario": "scenario.at={}",
    "backbone": "backbone.at={}",
    "clips": "scenario.at={}",
    "metric": "metrics=[retrieval, train/loss, {{name: faulty-metric, at: {}}}]",
    "logger": "loggers=[{{name: faulty-logger, at: {}}}]",
    "callback": "callbacks=[{{name: 'calm_faults:Callback', at: {}}}]",
}
CASES = [(kind, verb) for told in (VERBS, PROPERTIES) for kind in told for verb in told[kind].split() if kind in PLACES]
CALLED = {
    **dict.fromkeys([("scenario", "clips"), ("scenario", "task_names"), ("clips", "__len__")], "benchmark"),
    ("strategy", "__post_init__"): "__init__",
    ("scenario", "__post_init__"): "__init__",
    ("logger", "log_single_metric"): "log_metrics",
}
"""Verbs that the command reaches by another one of the same object, which is the one that it names."""


def line(kind, verb, error="ValueError: two lines"):
    kind = "scenario" if verb == "benchmark" else kind
    name = {"clips": "object 'Clips'", "callback": "callback 'faulty-callback'"}.get(kind, f"{kind} 'faulty-{kind}'")
    return f"avcl: {name} (calm-faults 0.3, module calm_faults) failed in {verb}: {error}\n"


@pytest.mark.parametrize(("kind", "verb"), CASES)
def test_a_plugin_that_raises_is_named_with_its_verb(tmp_path, kind, verb):
    asked = PLACES[kind].format(verb)
    words = ["train", run_file(tmp_path), "--out", tmp_path / "run", "--set", asked]
    code, told = avcl(*words, *(["--dry-run"] if verb == "full_bytes" else []))
    assert told.endswith(line(kind, CALLED.get((kind, verb), verb)))
    assert (code, "Traceback" in told) == (2, False)


def test_debug_shows_the_traceback_above_the_line(tmp_path):
    words = ["train", run_file(tmp_path), "--out", tmp_path / "run", "--set", "backbone.at=embed"]
    code, told = avcl("--debug", *words)
    assert code == 2
    assert told.endswith(line("backbone", "embed"))
    assert "avcl: Traceback (most recent call last):\n" in told
    assert 'calm_faults.py", line' in told


def test_a_plugin_that_ends_the_process_or_loses_its_own_file_is_named(tmp_path):
    words = ["train", run_file(tmp_path), "--out", tmp_path / "run", "--set", "backbone.at=forward"]
    assert avcl(*words, "--set", "backbone.wrong=SystemExit") == (2, line("backbone", "forward", "SystemExit: 3"))
    lost = "FileNotFoundError: [Errno 2] no such file: 'mine.txt'"
    assert avcl(*words, "--set", "backbone.wrong=OSError") == (2, line("backbone", "forward", lost))


def test_cuda_out_of_memory_says_what_to_lower(tmp_path):
    """Wherever it is raised: in the learner's own pass, or in a strategy's, who is not to blame."""
    for place in ("backbone.at=forward", "strategy.at=prepare"):
        wrong = f"{place.partition('.')[0]}.wrong=memory"
        words = ["train", run_file(tmp_path), "--out", tmp_path / "run", "--set", place, "--set", wrong]
        assert avcl(*words) == (
            2,
            "avcl: out of memory (tried to allocate 2.00 GiB); lower learner.batch_size or learner.eval_batch_size "
            "(learner.accumulate keeps the size of a step), strategy.replay, memory.capacity, or the sizes of the "
            "scenario and the backbone\n",
        )


def test_a_plugin_in_a_loader_process_an_evaluation_and_a_sweep_is_named_too(tmp_path):
    config = run_file(tmp_path)
    asked = ["--set", "scenario.at=__getitem__", "--set", "learner.workers=1"]
    assert avcl("train", config, "--out", tmp_path / "a", *asked) == (2, line("clips", "__getitem__"))
    assert avcl("train", config, "--out", tmp_path / "run")[0] == 0
    asked = ["--set", "faulty-evaluation.at=evaluate"]
    assert avcl("eval", tmp_path / "run", "faulty-evaluation", *asked) == (2, line("evaluation", "evaluate"))
    asked = ["--set", "backbone.at=forward", "--seeds", "0,", "--out", tmp_path / "sweep"]
    code, told = avcl("sweep", config, *asked)
    assert told.endswith(f"faulty-strategy-0 failed: {line('backbone', 'forward')[6:]}")
    assert (code, "Traceback" in told) == (2, False)
