"""The example scripts and run files run, and are short."""

import re

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
from avcl.registry import registry
from avcl.testing import Noise, check_strategy


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


def test_compare_is_a_sweep_of_all_methods(tmp_path, monkeypatch, capsys):
    """With words of one's own, ``--methods`` too, in their place."""
    monkeypatch.chdir(tmp_path)
    module = example("compare")
    with pytest.raises(SystemExit) as ended:
        module.main(["--seeds", "20,21", "--dry-run", "--methods", "er", "multitask"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    folders = [f"runs/compare/{method}-{seed}" for method in ("er", "multitask") for seed in (20, 21)]
    assert [line.split()[0] for line in told.splitlines() if "runs/compare" in line] == folders
    assert list(tmp_path.iterdir()) == []
    bundled = {cls.name for plugin, cls in registry().offers("strategies") if plugin.module.startswith("avcl.plugins")}
    assert set(module.METHODS) == bundled
