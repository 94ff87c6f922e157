"""The bench of the training step: settings, what methods share, the command, what it writes."""

import json
import re

import pytest
import torch
from helpers.toys import fed, held, small, small_learner
from typer.testing import CliRunner

from avcl.bench import arithmetic, training
from avcl.bench.training import fill, read_method, share_state, share_weights
from avcl.cli.main import app
from avcl.errors import UserError
from avcl.plugins.er import ER
from avcl.testing import small_backbone


def test_a_method_has_settings_of_its_own_over_those_of_all():
    sets = ["learner.precision=bf16", "strategy.alpha=0"]
    told = read_method("stella,keep_video=0.25,backbone.visible_of=kept", sets)
    assert told["strategy"] == {"name": "stella", "keep_video": 0.25, "alpha": 0}
    assert told["backbone"] == {"name": "cav-mae", "visible_of": "kept"}
    assert told["learner"] == {"precision": "bf16"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--strategies", "stela"], "avcl: unknown strategy 'stela'; did you mean 'stella'?"),
        (["--strategies", "er,replai=3"], "avcl: strategy.replai: unknown setting; did you mean 'replay'?"),
        (["--strategies", "er,replay"], "avcl: --set strategy.replay: must be key=value, as in learner.lr=1e-4"),
        (["--set", "memory.capacity=3"], "avcl: --set memory: must begin with strategy, backbone or learner"),
        (["--sizes", "huge"], "avcl: sizes.0: invalid value 'huge': must be 'tiny', 'small' or 'base'"),
        (["--device", "tpu"], "avcl: device: invalid value 'tpu': must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_mistakes_are_one_line(words, told):
    done = CliRunner().invoke(app, ["bench", "training", *words])
    assert (done.exit_code, done.stderr) == (2, f"{told}\n")


def test_an_unknown_bench_is_one_line():
    done = CliRunner().invoke(app, ["bench", "selektion"])
    assert (done.exit_code, done.stderr) == (2, "avcl: unknown bench 'selektion'; did you mean 'selection'?\n")


def test_a_bench_of_a_plugin_has_its_own_options():
    done = CliRunner().invoke(app, ["bench", "selection", "--help"])
    assert done.stdout.startswith("usage: avcl bench selection [-h] [--rounds ROUNDS]")


def test_backbones_share_weights_where_both_have_them():
    one, other = small_backbone(), small_backbone(seed=1, depth=2, visible_of="kept")
    shared = share_weights(other, one)
    mine, theirs = dict(shared.named_parameters()), dict(one.named_parameters())
    assert all(mine[name] is parameter for name, parameter in theirs.items())
    assert {name.split(".")[2] for name in mine.keys() - theirs.keys()} == {"1"}  # the second block is its own


def test_optimizers_share_their_state_of_the_same_weights():
    states, backbone = {}, small_backbone()
    learners = [small_learner(ER()) for _ in range(2)]
    for learner in learners:
        share_weights(learner.backbone, backbone)
    one, two = (torch.optim.Adam(learner.backbone.parameters(), lr=0.1) for learner in learners)
    share_state(one, backbone, states)
    share_state(two, backbone, states)
    for parameter in backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    one.step()
    two.step()
    assert {int(state["step"]) for state in two.state.values()} == {2}
    assert all(one.state[p]["exp_avg"] is two.state[p]["exp_avg"] for p in backbone.parameters() if p.requires_grad)


def test_a_replay_buffer_is_filled_with_what_it_holds():
    strategy = small(ER, capacity=11)
    fed(strategy, 0)
    fill(strategy.memory)
    assert len(strategy.memory) == 11
    assert set(held(strategy).clip.index.tolist()) == {0, 1, 2, 3}


def test_the_command_measures_and_writes_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LEAST", 0.0)
    monkeypatch.setattr(arithmetic, "LEAST", 0.0)
    out = tmp_path / "bench.json"
    methods = ["finetune", "derpp", "stella", "stella,scorer=cosine,scorer_blocks=1,backbone.visible_of=kept"]
    words = ["--strategies", *methods, "--batch-size", "3", "--rounds", "2", "--out", str(out), "--cpu-time"]
    done = CliRunner().invoke(app, ["bench", "training", *words])
    assert done.exit_code == 0, done.output
    told = json.loads(out.read_text())
    assert told["settings"]["strategies"] == methods and torch.__version__.startswith(told["versions"]["torch"])
    assert told["machine"]["threads"] == torch.get_num_threads()
    size = told["sizes"]["tiny"]
    assert size["batch_size"] == 3 and len(size["matrix_multiply_adds_per_second"]) == 2
    found = size["methods"]
    assert list(found) == methods
    for method in found.values():
        assert len(method["seconds"]) == len(method["split"]) == 2 and min(method["seconds"]) > 0
        assert method["batch"] == (3 if method is found["finetune"] else 6)  # replay in full
    plain, replay, stella, light = (found[name] for name in methods)
    assert plain["replay_bytes"] == 0 < replay["replay_bytes"] < stella["replay_bytes"]
    work = [sum(method["multiply_adds"].values()) for method in (plain, replay, stella, light)]
    assert work[0] < work[3] < work[1] < work[2] and 1.9 * work[0] < work[1] < 2.1 * work[0]
    assert light["passes"]["encode_first"] == [3] and stella["passes"]["fuse"] == [3, 2]
    peaks = [max(method["peak_bytes"].values()) for method in (plain, replay, stella, light)]
    assert peaks[0] < peaks[3] < peaks[2] < peaks[1]
    assert light["settings"]["backbone"]["visible_of"] == "kept"
    for line in (r"tiny: 3 current clips a step", r"finetune .* 1 \(1 to 1\)", r"multiply-adds alone allow"):
        assert re.search(line, done.stdout)


def test_what_no_backbone_has_is_said_before_anything_is_measured():
    with pytest.raises(UserError, match="unknown strategy"):
        read_method("nobody", [])
