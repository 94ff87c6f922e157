"""The example scripts and run files run, and are short."""

import json
import re
from pathlib import Path

import pytest
import torch
from helpers.examples import EXAMPLES, example
from helpers.toys import train

from avcl.config.build import components_of
from avcl.config.bundled import bundled_files
from avcl.config.files import read_config
from avcl.errors import SettingsError
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.esmer import ESMER
from avcl.plugins.stella.plus import StellaPlus
from avcl.testing import Noise, check_strategy

SMALL = """
scenario: {name: synthetic, tasks: 2, classes: 2, train_clips: 2, eval_clips: 2, pretraining: 0}
backbone: {name: cav-mae, size: tiny, dim: 24, heads: 2, depth: 1, decoder_dim: 16, decoder_heads: 2}
weights: null
strategy: stella
shared: {memory: {capacity: 8}}
methods: {stella-plus: {heads: 4}}
learner: {epochs: 1, batch_size: 4, lr: 0.001}
"""


@pytest.mark.parametrize("pattern", ["stella.py", "compose.py", "*/*.py"])
def test_examples_are_short(pattern):
    for path in EXAMPLES.glob(pattern):
        lines = path.read_text().splitlines()
        assert len([line for line in lines if line and not line.lstrip().startswith(('"""', "#"))]) <= 60


# ---- several strategies in one learner ----
def exact(capacity=8):
    return Memory(capacity=capacity, dtype="float64")


@pytest.fixture
def together(make_learner):
    return lambda strategies: make_learner(strategies, torch.float64, epochs=4)


def three():
    """What compose.py combines, at the size of these tests."""
    plus, esmer, gap = example("compose").strategies()
    assert (plus.name, esmer.name, gap.name, esmer.memory.capacity) == ("stella-plus", "esmer", "keep-gap", 0)
    plus = StellaPlus(memory=exact(), heads=4, chunk=2)
    return [plus, ESMER(memory=exact(0), loss_margin=1.0, update_probability=1.0), gap]


def test_each_of_three_strategies_does_its_part(together):
    plus, esmer, gap = strategies = three()
    learner = together(strategies)
    train(learner, Noise())
    terms = ["mae_audio", "mae_video", "contrastive", "drift", "matching", "distillation", "gap"]
    assert list(learner.losses) == terms
    assert learner.batch.video_at.shape == learner.batch.audio_at.shape == (8, 4), "STELLA+ has selected"
    assert len(plus.memory) == 16 and len(esmer.memory) == 0
    assert learner.weight.shape == (4,) and learner.weight.min() < 1, "ESMER has weighed the current clips"
    assert esmer.loss_mean > 0 and gap.mean > 0
    term = learner.output.terms["mae_video"]
    weighted = torch.cat([learner.weight, torch.ones(4)]) * term
    assert torch.equal(learner.losses["mae_video"], weighted.mean().detach())


def test_a_strategy_that_does_nothing_changes_nothing(together):
    """Bit for bit over 32 steps: DER++ beside an ESMER that accepts all, and beside a gap of no weight."""
    idle = [ESMER(memory=exact(0), loss_margin=1e9, reg_weight=0.0), example("compose").KeepGap(weight=0.0)]
    alone, both = together(DERpp(memory=exact())), together([idle[0], DERpp(memory=exact()), idle[1]])
    assert torch.equal(train(alone, Noise()), train(both, Noise()))
    assert alone.steps == 32


def test_the_small_strategy_keeps_every_promise():
    check_strategy(example("compose").KeepGap)


# ---- scripts and files ----
@pytest.mark.parametrize(("name", "folder"), [("stella", "runs/example"), ("compose", "runs/compose")])
def test_the_scripts_run(tmp_path, monkeypatch, capsys, name, folder):
    monkeypatch.chdir(tmp_path)
    path = EXAMPLES / f"{name}.py"
    source = path.read_text()
    assert source.count("Synthetic()") == 1
    source = source.replace("Synthetic()", "Synthetic(tasks=2, train_clips=8, eval_clips=1)")
    exec(compile(source, str(path), "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out
    assert re.search(r"^a2v/R@10 +average +\d+\.\d +forgetting +-?\d+\.\d$", told, re.MULTILINE)
    assert list((tmp_path / folder).glob("events*"))


def test_stella_plus_plus_has_the_batch_of_the_paper():
    base, larger = read_config(EXAMPLES / "run.yaml"), read_config(EXAMPLES / "stella_plus_plus.yaml")
    batch = round(1.66 * base["learner"]["batch_size"])
    learner, strategy = {**base["learner"], "batch_size": batch}, {**base["strategy"], "name": "stella-plus"}
    assert larger == {**base, "learner": learner, "strategy": strategy}
    run = Run.from_config(larger)
    run.learner()
    slots = run.strategies[0].memory.state_dict()["slots"]
    assert f"room for {slots} of these" in (EXAMPLES / "stella_plus_plus.yaml").read_text()


@pytest.mark.parametrize("name", bundled_files())
def test_every_run_file_has_only_settings_that_exist(name):
    """What is missing in those for one's own data is the data, and nothing else."""
    raw = read_config(EXAMPLES / f"{name}.yaml")
    if "root" not in raw["scenario"]:
        assert components_of(raw)["settings"]["learner"]["epochs"] == raw["learner"]["epochs"]
        return
    with pytest.raises(SettingsError) as error:
        components_of(raw)
    missing = re.compile(r"scenario.(root: |(train|eval|labels): no file)|weights: .*: no such file")
    assert [line for line in error.value.mistakes if not missing.match(line)] == []


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """``compare.py`` on a small file: a function that calls it with further words, and where the runs are."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "small.yaml").write_text(SMALL)
    given = ["--config", str(folder / "small.yaml"), "--out", str(folder / "runs"), "--seeds", "0", "1"]
    main = example("compare").main
    return lambda *words, methods=("er", "multitask"): main([*given, "--methods", *methods, *words]), folder / "runs"


def runs_named_in(progress, out):
    return [Path(line).name for line in progress.splitlines() if line.startswith(str(out))]


def test_compare_runs_every_method_with_every_seed_once(compared, capsys):
    compare, out = compared
    methods = ("er", "stella-plus", "multitask")
    compare(methods=methods)
    told, progress = capsys.readouterr()
    names = [f"{method}-{seed}" for method in methods for seed in (0, 1)]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert runs_named_in(progress, out) == names
    rows = [line.split()[0] for line in told.splitlines()[1:] if " ± " in line]
    assert list(dict.fromkeys(rows)) == list(methods)
    assert "percent, mean ± standard deviation over seeds 0, 1" in told
    sections = {name: json.loads((out / name / "run.json").read_text())["settings"]["strategy"] for name in names}
    assert sections["er-0"]["memory"]["capacity"] == sections["stella-plus-1"]["memory"]["capacity"] == 8
    assert sections["stella-plus-0"]["heads"] == 4 and "heads" not in sections["er-0"]
    assert sections["multitask-0"] == {"name": "multitask"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    compare(methods=methods)
    assert capsys.readouterr() == (told, "")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before


def test_compare_prints_what_the_runs_found(compared, capsys):
    compare, out = compared
    compare("--csv", methods=["er"])
    head, line = capsys.readouterr().out.splitlines()
    runs = [json.loads((out / f"er-{seed}" / "results.json").read_text()) for seed in (0, 1)]
    shown = dict(zip(head.split(","), line.split(","), strict=True))
    for key in ("a2v/R@mean", "v2a/R@10"):
        a, b = (run["metrics"]["retrieval"]["measures"][key]["average"][-1] for run in runs)
        assert float(shown[f"{key} average mean"]) == pytest.approx((a + b) / 2)
        assert float(shown[f"{key} average deviation"]) == pytest.approx(abs(a - b) / 2**0.5)
    compare("--latex", methods=["er"])
    assert capsys.readouterr().out.startswith(r"\begin{tabular}")


def test_compare_resumes_what_was_killed(compared, capsys):
    """Killed before its weights were written: the run is resumed from its checkpoint to the same results."""
    compare, out = compared
    compare(methods=["derpp"])
    whole = (out / "derpp-1" / "results.json").read_bytes()
    for name in ("README.md", "weights.safetensors"):
        (out / "derpp-1" / name).unlink()
    capsys.readouterr()
    compare(methods=["derpp"])
    assert runs_named_in(capsys.readouterr().err, out) == ["derpp-1"]
    assert (out / "derpp-1" / "results.json").read_bytes() == whole
    assert (out / "derpp-1" / "README.md").exists()


@pytest.mark.parametrize(
    ("words", "methods", "told"),
    [
        (["--set", "learner.lr=0.5"], ["er"], r"er-0: holds a run with other settings; remove it, or choose another"),
        ([], ["ser"], r"unknown strategy 'ser'; did you mean"),
        (["--set", "strategy.memori.capacity=3"], ["derpp"], r"strategy.memori: unknown setting; did you mean 'mem"),
        (["--config", "nowhere.yaml"], ["er"], r"nowhere.yaml: no such file"),
    ],
)
def test_compare_says_what_is_wrong_in_a_line(compared, capsys, words, methods, told):
    compare, out = compared
    compare(methods=["er"])
    capsys.readouterr()
    before = sorted(out.iterdir())
    with pytest.raises(SystemExit) as ended:
        compare(*words, methods=methods)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"compare.py: .*{told}", line)
    assert sorted(out.iterdir()) == before
