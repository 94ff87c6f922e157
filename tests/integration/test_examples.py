"""The examples run, are as short as they say, and are what the README shows."""

import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import torch
from helpers.toys import train

from avcl.cli.plugins import show_all
from avcl.config.build import components_of
from avcl.config.files import read_config
from avcl.errors import SettingsError
from avcl.experiment import checkpoint
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.esmer import ESMER
from avcl.plugins.stella.plus import StellaPlus
from avcl.registry import Registry
from avcl.testing import check_strategy
from avcl.testing.toys import Noise, small_backbone
from avcl.training.learner import Learner

HOME = Path(__file__).parents[2]
EXAMPLES = HOME / "examples"
SMALL = """
scenario: {name: synthetic, tasks: 2, classes: 2, train_clips: 2, eval_clips: 2, pretraining: 0}
backbone: {name: cav-mae, size: tiny, dim: 24, heads: 2, depth: 1, decoder_dim: 16, decoder_heads: 2}
weights: null
strategy: {name: stella, heads: 4, chunk: 4, memory: {capacity: 8}}
learner: {epochs: 1, batch_size: 4, lr: 0.001}
"""


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lines_of_code(path):
    """Lines with code on them: no blank ones, comments or docstrings."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines, statement = set(), []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NEWLINE:
            if [part.type for part in statement] != [tokenize.STRING]:
                lines.update(line for part in statement for line in range(part.start[0], part.end[0] + 1))
            statement = []
        elif token.type not in nothing:
            statement.append(token)
    return len(lines)


def python(*words, path, cwd):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        timeout=240,
    )


# ---- a package of one's own ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A copy of the package's source and the folder into which pip installed it."""
    source = tmp_path_factory.mktemp("source") / "calm"
    shutil.copytree(EXAMPLES / "calm", source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    site = tmp_path_factory.mktemp("site")
    pip = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--no-index", "--no-deps"]
    made = python(*pip, "--no-build-isolation", "--target", str(site), str(source), path="", cwd=source)
    assert made.returncode == 0, made.stderr
    return source, site


def test_the_package_is_found_when_it_is_installed(calm, monkeypatch, capsys):
    monkeypatch.syspath_prepend(calm[1])
    show_all(Registry())  # what `avcl list` does, without a process that imports torch once more
    monkeypatch.delitem(sys.modules, "calm")
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if re.match(r"strategy +calm ", line))
    assert "how far the embeddings of past clips have turned" in line and line.rstrip().endswith("avcl-calm 0.1")
    assert "broken" not in told


def test_the_packages_own_test_passes(calm):
    source, site = calm
    tested = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", path=site, cwd=source)
    assert tested.returncode == 0, tested.stdout
    assert "1 passed" in tested.stdout


def test_the_package_is_what_the_readme_says():
    readme = (HOME / "README.md").read_text()
    section = readme.partition("## Write your own strategy in three steps\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(python|toml)\n(.*?)```", section, re.DOTALL)
    files = ["calm.py", "pyproject.toml", "tests/test_calm.py"]
    assert [text for _, text in blocks] == [(EXAMPLES / "calm" / name).read_text() for name in files]
    assert all(f"`{name}`:" in section for name in files)


def test_the_package_is_short():
    written = [path for path in (EXAMPLES / "calm").rglob("*.py") if "build" not in path.parts]
    assert sum(map(lines_of_code, written)) < 45


def test_calm_does_what_it_says(make_learner):
    calm = example("calm/calm").Calm
    strategy = calm(memory=Memory(capacity=8), strength=3.0)
    learner = make_learner(strategy)
    train(learner, Noise())
    now, was = learner.output, strategy._past.extra
    cosines = [
        torch.nn.functional.cosine_similarity(side[4:], was[f"{name}_was"]).mean()
        for name, side in (("audio", now.audio), ("video", now.video))
    ]
    assert learner.losses["turn"].item() == pytest.approx(3 * (2 - sum(cosines)).item(), rel=1e-5)
    assert learner.losses["turn"] > 0


# ---- several strategies in one learner -----------------------------------------------------------------------


def together(strategies, dtype=torch.float64, **settings):
    defaults = {"epochs": 4, "batch_size": 4, "lr": 1e-3}
    return Learner(backbone=small_backbone(dtype), strategy=strategies, **(defaults | settings))


def exact(capacity=8):
    return Memory(capacity=capacity, dtype="float64")


def three(**settings):
    """What compose.py combines, at the size of these tests."""
    compose = example("compose")
    plus, esmer, gap = compose.strategies()
    assert (plus.name, esmer.name, gap.name) == ("stella-plus", "esmer", "keep-gap")
    assert esmer.memory.capacity == 0
    plus = StellaPlus(memory=exact(), heads=4, chunk=2)
    return [plus, ESMER(memory=exact(0), margin=1.0, share=1.0), gap], compose


def test_each_of_three_strategies_does_its_part():
    strategies, _ = three()
    plus, esmer, gap = strategies
    learner = together(strategies)
    train(learner, Noise())
    assert list(learner.losses) == [
        *("mae_audio", "mae_video", "contrastive"),
        *("drift", "matching", "consistency", "gap"),
    ]
    assert learner.batch.video_at.shape == learner.batch.audio_at.shape == (8, 4), "STELLA+ has chosen"
    assert len(plus.memory) == 16 and len(esmer.memory) == 0
    assert learner.weight.shape == (4,) and learner.weight.min() < 1, "ESMER has judged the current clips"
    assert esmer.usual > 0 and gap.usual > 0
    term = learner.output.terms["mae_video"]
    weighted = torch.cat([learner.weight, torch.ones(4)]) * term
    assert torch.equal(learner.losses["mae_video"], weighted.mean().detach())


def test_composed_strategies_resume(tmp_path):
    first, second = Noise().benchmark().train_stream
    straight = together(three()[0])
    straight.train(first)
    checkpoint.save(tmp_path / "state.pt", straight.state_dict())
    again = together(three()[0])
    again.load_state_dict(checkpoint.load(tmp_path / "state.pt"))
    for learner in (straight, again):
        learner.train(second)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("order", [1, -1])
def test_a_strategy_that_does_nothing_changes_nothing(order):
    """Bit for bit over 32 steps: DER++ beside an ESMER that accepts all, and beside a gap of no weight."""
    gap = example("compose").KeepGap
    idle = [ESMER(memory=exact(0), margin=1e9, consistency=0.0), gap(weight=0.0)]
    alone, both = together(DERpp(memory=exact())), together([DERpp(memory=exact()), *idle][::order])
    assert torch.equal(train(alone, Noise()), train(both, Noise()))
    assert alone.steps == 32


def test_the_small_strategy_keeps_every_promise():
    check_strategy(example("compose").KeepGap)


def test_strategies_are_composed_in_a_file_too(tmp_path, monkeypatch):

    (tmp_path / "run.yaml").write_text(SMALL)
    sets = ["strategy=[stella-plus, {name: esmer, memory: {capacity: 0}}]"]
    made = components_of(read_config(tmp_path / "run.yaml", sets))
    assert [part.name for part in made["strategies"]] == ["stella-plus", "esmer"]


# ---- scripts and files ---------------------------------------------------------------------------------------


def test_stella_in_the_open_is_short():
    assert lines_of_code(EXAMPLES / "stella.py") < 45


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


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """``compare.py`` on a small file: a function that calls it with further words."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "small.yaml").write_text(SMALL)
    module = example("compare")
    given = ["--config", str(folder / "small.yaml"), "--out", str(folder / "runs"), "--seeds", "0", "1"]

    def compare(*words, methods=("er", "stella-plus", "multitask")):
        module.main([*given, "--methods", *methods, *words])

    return compare, folder / "runs"


def runs_named_in(progress, out):
    return [Path(line).name for line in progress.splitlines() if line.startswith(str(out))]


def test_compare_runs_every_method_with_every_seed_once(compared, capsys, monkeypatch):
    compare, out = compared
    compare()
    told, progress = capsys.readouterr()
    names = [f"{method}-{seed}" for method in ("er", "stella-plus", "multitask") for seed in (0, 1)]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert runs_named_in(progress, out) == names
    assert [line.split()[0] for line in told.splitlines()[1:] if " ± " in line] == ["er", "stella-plus", "multitask"]
    assert "percent, mean ± standard deviation over seeds 0, 1" in told
    capacities = {name: json.loads((out / name / "run.json").read_text())["settings"]["strategy"] for name in names}
    assert capacities["er-0"]["memory"]["capacity"] == capacities["stella-plus-1"]["memory"]["capacity"] == 8
    assert capacities["stella-plus-0"]["heads"] == 4 and "heads" not in capacities["er-0"]
    assert capacities["multitask-0"] == {"name": "multitask"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    compare()
    again, progress = capsys.readouterr()
    assert (again, progress) == (told, "")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before


def test_compare_prints_what_the_runs_found(compared, capsys):
    compare, out = compared
    compare("--csv", methods=["er"])
    head, line = capsys.readouterr().out.splitlines()
    measures = [
        json.loads((out / f"er-{seed}" / "results.json").read_text())["metrics"]["retrieval"]["measures"]
        for seed in (0, 1)
    ]
    shown = dict(zip(head.split(","), line.split(","), strict=True))
    for key in ("a2v/R@mean", "v2a/R@10"):
        a, b = (run[key]["average"][-1] for run in measures)
        assert float(shown[f"{key} average mean"]) == pytest.approx((a + b) / 2)
        assert float(shown[f"{key} average deviation"]) == pytest.approx(abs(a - b) / 2**0.5)
    compare("--latex", methods=["er", "stella-plus"])
    assert capsys.readouterr().out.startswith(r"\begin{tabular}")


def test_compare_goes_on_where_it_was_stopped(compared, capsys):
    """Killed after its first task: the run goes on from its checkpoint to the same results."""
    compare, out = compared
    compare(methods=["derpp"])
    whole = (out / "derpp-1" / "results.json").read_bytes()
    state = checkpoint.load(out / "derpp-1" / "checkpoint.pt")
    assert state["cursor"]["tasks_done"] == 2
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
        (["--set", "strategy.memori.capacity=3"], ["finetune"], r"strategy.memori: unknown setting; did you mean 'mem"),
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
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.match(rf"compare.py: .*{told}", lines[0])
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("name", ["run", "pretrain", "stella_plus_plus", "videos", "continual_vs", "continual_as"])
def test_every_run_file_has_only_settings_that_exist(name):
    """What is missing in those for one's own data is the data, and nothing else."""
    raw = read_config(EXAMPLES / f"{name}.yaml")
    if "root" not in raw["scenario"]:
        assert components_of(raw)["settings"]["learner"]["epochs"] == raw["learner"]["epochs"]
        return
    with pytest.raises(SettingsError) as error:
        components_of(raw)
    missing = ("scenario.root: ", "scenario.train: no file", "scenario.eval: no file", "scenario.labels: no file")
    assert all(line.startswith(missing) for line in error.value.mistakes)
