"""Two and three processes are one process with the whole batch: losses, gradients, weights, replay, retrieval."""

import pytest
import torch
from helpers.processes import Case, all_trained, together

from avcl.registry import registry

pytestmark = pytest.mark.xdist_group("processes-training")  # what they share is made once

SMALL = {"memory": {"capacity": 7}}
"""No multiple of the processes, and soon full."""

STREAM = {"epochs": 4}  # with two tasks of 11 clips, one of them corrupt, in batches of 4: 24 steps
LONG = {cls.name: Case({cls.name: {}}, STREAM) for _, cls in registry().offers("strategies")}
CASES = {
    name: Case({name: {} if name in ("finetune", "multitask") else SMALL}, STREAM, {"tasks": 2}) for name in LONG
} | {
    "accumulated": Case({"stella": SMALL}, {"accumulate": 2, "clip_norm": 0.5, "warmup": 3}, {"tasks": 3}),
    "each loss apart": Case({"derpp": {**SMALL, "contrastive_scope": "split"}, "er": {**SMALL, "replay": 2}}),
    "masks of their own": Case({"mir": {**SMALL, "share_masks": False, "replay": 1.5}}),
    "edited with masks of their own": Case({"gmed": {**SMALL, "share_masks": False, "gamma": 0.5}}),
    "patches of what others replay": Case({"er": SMALL, "random": {**SMALL, "replay": 1}, "lump": SMALL}),
    "a teacher of what others replay": Case({"er": {**SMALL, "replay": 1}, "esmer": {"memory": {"capacity": 0}}}),
    "by bytes": Case({"stella-plus": {"memory": {"budget_bytes": 300_000}}}),
    "scored by cosine": Case({"stella": {**SMALL, "scorer": "cosine"}}, {"batch_size": 3}),
    "fewer clips than processes": Case({"stella": {"memory": {"capacity": 1}}, "cls-er": SMALL}, {"batch_size": 3}),
}


@pytest.fixture(scope="module")
def one():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield all_trained(CASES)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def many(request, tmp_path_factory):
    return together(request.param, all_trained, tmp_path_factory.mktemp("processes"), CASES)


@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_they_train_as_one(one, many, case):
    alone = one[case]
    assert alone["steps"] >= 6
    for found in (process[case] for process in many):
        assert found["steps"] == alone["steps"]
        assert [name for name, _ in found["losses"]] == [name for name, _ in alone["losses"]]
        close = {"rtol": 0, "atol": 1e-9}
        torch.testing.assert_close([x for _, x in found["losses"]], [x for _, x in alone["losses"]], **close)
        torch.testing.assert_close(found["gradients"], alone["gradients"], **close)
        torch.testing.assert_close(found["weights"], alone["weights"], **close)
        assert all(torch.equal(found["state"][name], state) for name, state in alone["state"].items())


@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_they_evaluate_and_count_as_one(one, many, case):
    for found in (process[case] for process in many):
        assert found["retrieval"] == one[case]["retrieval"]
        tasks = CASES[case].scenario.get("tasks", 2)
        assert found["retrieval"]["gallery"] == 11 * tasks
        assert found["bad"] == one[case]["bad"] == {f"train-{t}-4": "made bad by the test" for t in range(tasks)}


@pytest.mark.process
@pytest.mark.parametrize("case", CASES)
def test_they_stay_alike(many, case):
    first = many[0][case]
    for found in (process[case] for process in many[1:]):
        assert torch.equal(found["weights"], first["weights"])
        assert found["losses"] == first["losses"]
