"""A method has its own settings in every run file; another one in its place takes over the replay buffer alone."""

import logging

import pytest

from avcl.config.build import method_settings
from avcl.config.files import read_config
from avcl.config.methods import with_strategy
from avcl.errors import SettingsError

RAW = {
    "strategy": {"name": "stella", "temperature": 0.1, "keep_audio": 0.25, "memory": {"capacity": 7}},
    "shared": {"memory": {"dtype": "float16"}, "replay": 3},
    "methods": {
        "cls-er": {"reg_weight": 0.3},
        "lump": {"replay": None},
        "stella": {"temperature": 0.2, "alpha": 0.75},
        "blind": {"name": "random", "keep_audio": 0.75},
        "finetune": None,
    },
}


def strategy(raw):
    return method_settings(raw)["strategy"]


def test_a_section_comes_before_the_methods_and_these_before_what_is_shared():
    told = strategy(RAW)
    assert (told["temperature"], told["alpha"], told["keep_audio"], told["keep_video"]) == (0.1, 0.75, 0.25, 0.5)
    assert told["memory"] == {"capacity": 7, "budget_bytes": None, "dtype": "float16"}
    assert told["replay"] == 3


def test_another_method_takes_over_the_replay_buffer_alone(caplog):
    caplog.set_level(logging.INFO)
    told = strategy(with_strategy(RAW, "cls-er"))
    assert (told["temperature"], told["reg_weight"], told["replay"]) == (0.05, 0.3, 3)
    assert told["memory"] == {"capacity": 7, "budget_bytes": None, "dtype": "float16"}
    assert caplog.messages == ["strategy cls-er: without temperature, keep_audio of stella"]
    assert strategy(with_strategy(RAW, "lump"))["replay"] is None
    assert strategy(with_strategy(RAW, "finetune")) == {"name": "finetune"}
    assert strategy(with_strategy(RAW, "stella")) == strategy(RAW)
    told = strategy(with_strategy(RAW, "blind"))  # a name of its own
    assert (told["name"], told["keep_audio"], told["memory"]["capacity"]) == ("random", 0.75, 7)
    one, other = strategy({**RAW, "strategy": ["stella", {"name": "cls-er", "memory": {"capacity": 0}}]})
    assert (one["name"], one["temperature"], one["memory"]["capacity"]) == ("stella", 0.2, 2000)
    assert (other["name"], other["temperature"], other["memory"]["capacity"]) == ("cls-er", 0.05, 0)
    assert strategy(with_strategy({**RAW, "strategy": [{"name": "er", "replay": 9}, "mir"]}, "derpp"))["replay"] == 9


def test_assignments_come_after_the_method(tmp_path):
    (tmp_path / "run.yaml").write_text("strategy: {name: stella, temperature: 0.1, memory: {capacity: 7}}\n")
    raw = read_config(tmp_path / "run.yaml", ["strategy.temperature=0.3", "strategy.memory.dtype=bfloat16"], "cls-er")
    told = strategy(raw)
    assert (told["temperature"], told["memory"]["capacity"], told["memory"]["dtype"]) == (0.3, 7, "bfloat16")


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        ({"shared": {"temperature": 1}}, ["shared.temperature: unknown setting; allowed: contrastive_scope, memory, "]),
        ({"shared": {"memory": {"capacity": -1}}}, ["shared.memory.capacity: invalid value -1: must be greater than"]),
        ({"shared": 3}, ["shared: invalid value 3: must be a mapping of settings"]),
        ({"methods": ["er"]}, ["methods: invalid value ['er']: must be a mapping of settings"]),
        ({"methods": {"er": 3}}, ["methods.er: invalid value 3: must be a mapping of settings"]),
        ({"methods": {"derp": {}}}, ["methods.derp: unknown strategy 'derp'; did you mean 'derpp'?"]),
        (
            {"methods": {"mir": {"candidate": 1}, "gmed": {"alpha": -1}}, "strategy": "gmed"},
            [
                "methods.mir.candidate: unknown setting; did you mean 'candidates'?",
                "methods.gmed.alpha: invalid value -1: must be greater than or equal to 0",
            ],
        ),
        ({"strategy": "derp"}, ["strategy: unknown strategy 'derp'; did you mean 'derpp'?"]),
    ],
)
def test_mistakes_are_told_whichever_method_runs(raw, lines):
    with pytest.raises(SettingsError) as caught:
        method_settings(raw)
    assert len(caught.value.mistakes) == len(lines)
    assert all(told.startswith(line) for told, line in zip(caught.value.mistakes, lines, strict=True))
