"""Selection against the truth as an evaluation: the method of the run or of ``--set``, beside the baselines."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcl.cli.main import app
from avcl.scenarios.synthetic import Synthetic

SMALL = ("--set", "scenario.eval_clips=4", "--set", "selection.clips=8")


def evaluate(out, *words):
    weights = str(Synthetic().bundled_weights)
    return CliRunner().invoke(app, ["eval", weights, "selection", "--out", str(out), "--device", "cpu", *SMALL, *words])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("selection") / "scores.json"
    done = evaluate(out)
    assert done.exit_code == 0, done.output
    return json.loads(Path(out).read_text())["selection"]


def test_the_method_is_above_chance_and_random_is_not(found):
    scores, chance = found["scores"], found["chance"]
    assert found["clips"] == 4 * 8
    for kind in ("video", "audio"):
        assert chance[f"stella/{kind}/auc"] == 50
        assert scores[f"stella/{kind}/auc"] > 60
        assert abs(scores[f"random (baseline)/{kind}/auc"] - 50) < 10
        assert scores[f"energy (baseline)/{kind}/source_kept"] > scores[f"stella/{kind}/source_kept"]
        assert scores[f"stella/{kind}/source_kept"] > chance[f"stella/{kind}/source_kept"]
        assert found["higher_is_better"][f"stella/{kind}/entropy"] is False


def test_a_score_is_the_mean_over_tasks_in_percent(found):
    rows = found["tasks"]["stella"].values()
    assert len(rows) == 4
    assert found["scores"]["stella/video/auc"] == pytest.approx(100 * sum(row["video/auc"] for row in rows) / 4)


def test_a_method_that_selects_nothing_is_one_line(tmp_path):
    done = evaluate(tmp_path / "scores.json", "--set", "strategy=er")
    told = "avcl: selection: 'er' selects no patches; name a method that does with --set strategy=NAME"
    assert (done.exit_code, done.stderr.strip().splitlines()[-1]) == (2, told)
