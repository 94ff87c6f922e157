"""Lists of a run file: metrics, loggers and callbacks by name, with settings."""

import pytest

from avcl.config.build import components_of
from avcl.errors import SettingsError

SMALL = {
    "dim": 32,
    "heads": 2,
    "depth": 2,
    "fusion_depth": 1,
    "decoder_dim": 16,
    "decoder_heads": 2,
    "decoder_depth": 1,
}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"metrics": "retrieval"}, "metrics: invalid value 'retrieval': must be a list of names or mappings"),
        ({"loggers": [3]}, "loggers.0: invalid value 3: must be a name or a mapping of settings"),
        ({"loggers": [{"mode": "offline"}]}, "loggers.0.name: invalid value None: must be a name"),
        (
            {"callbacks": ["lr-schedul"]},
            "callbacks.0: unknown callback 'lr-schedul'; did you mean 'lr-schedule'?; or module:Class of your own",
        ),
        (
            {"callbacks": ["lr-schedule", {"name": "lr-schedule", "min_lr": -1}]},
            "callbacks.1.min_lr: invalid value -1: must be greater than or equal to 0",
        ),
        (
            {"callbacks": ["early-stopping"]},
            "evaluate_every: required with early-stopping, which watches evaluations within tasks",
        ),
    ],
)
def test_wrong_lists_of_metrics_loggers_and_callbacks(wrong, told):
    with pytest.raises(SettingsError) as caught:
        components_of({"backbone": SMALL, **wrong})
    assert str(caught.value) == told


def test_lists_of_metrics_loggers_and_callbacks_are_spelled_out():
    given = {"metrics": ["train/loss"], "loggers": ["csv", {"name": "wandb", "mode": "offline"}], "evaluate_every": 5}
    made = components_of(
        given | {"backbone": SMALL, "callbacks": [{"name": "lr-schedule", "warmup": 3}, "early-stopping"]}
    )
    assert (made["metrics"], made["loggers"]) == ([{"name": "train/loss"}], [{"name": "csv"}, *given["loggers"][1:]])
    assert [type(part).__name__ for part in made["callbacks"]] == ["LrSchedule", "EarlyStopping"]
    assert made["settings"]["callbacks"][0]["warmup"] == 3
    again = components_of(made["settings"])
    assert again["settings"] == made["settings"]
