"""Stop anywhere, go on as if nothing had happened."""

import hashlib
import io
import random
from dataclasses import dataclass

import pytest
import torch

from avcl.errors import UserError
from avcl.experiment import checkpoint
from avcl.experiment.checkpoint import Checkpoints
from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.strategy import Strategy
from avcl.testing.toys import Noise

BYTES = "its bytes are not those that were written: their SHA-256 is not that of its name"


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def train(learner, scenario):
    for number, experience in enumerate(scenario.benchmark().train_stream):
        if number >= learner.tasks_done:
            learner.train(experience)
    return weights(learner)


@pytest.mark.parametrize("make", [Finetune, ER, DERpp])
@pytest.mark.parametrize("stop", [1, 5, 8, 11])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_weights(make_learner, tmp_path, make, stop, accumulate):
    scenario = Noise(tasks=2)

    def learner():
        strategy = make() if make is Finetune else make(memory=Memory(capacity=8))
        return make_learner(strategy, accumulate=accumulate, warmup=3)

    whole = learner()
    expected = train(whole, scenario)

    stopped = learner()

    def stop_there(learner):
        if learner.clock.train_iterations == stop:
            Checkpoints(tmp_path).save(learner.state_dict(), stop, keep=1)
            raise KeyboardInterrupt

    stopped.between_batches = stop_there
    with pytest.raises(KeyboardInterrupt):
        train(stopped, scenario)

    resumed = learner()
    resumed.load_state_dict(Checkpoints(tmp_path).newest())
    assert torch.equal(train(resumed, scenario), expected)
    assert resumed.steps == whole.steps
    assert resumed.clock.train_iterations == whole.clock.train_iterations


@dataclass(kw_only=True)
class KeepsAList(Strategy):
    """Makes state that no checkpoint can hold."""

    name = "keeps-a-list"

    def begin(self, learner):
        self.past = [1, 2]


def test_state_that_would_be_lost_is_refused(make_learner):
    with pytest.raises(UserError, match=r"keeps-a-list.past: a list cannot be saved; keep modules, memories"):
        make_learner(KeepsAList())


@pytest.fixture
def kept(tmp_path):
    """Three checkpoints were written, the last two are kept."""
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    assert not checkpoints
    for step in (9, 10, 200):
        checkpoints.save({"step": step, "rows": torch.full((64,), step)}, step, keep=2)
    assert checkpoints
    return checkpoints


def test_the_last_ones_are_kept_and_named_by_their_content(kept):
    assert kept.newest()["step"] == 200
    names = sorted(path.name for path in kept.folder.iterdir())
    assert [name[:11] for name in names] == ["0000000010-", "0000000200-"]
    for name in names:
        assert name[11:] == hashlib.sha256((kept.folder / name).read_bytes()).hexdigest() + ".pt"


def test_of_several_at_one_step_the_last_one_stays(kept):
    for value in (*range(6), 5):
        kept.save({"value": value}, 200, keep=2)
        assert kept.newest()["value"] == value
        assert [path.name[:10] for path in sorted(kept.folder.iterdir())] == ["0000000010", "0000000200"]


def test_a_write_that_fails_leaves_the_old_checkpoint(kept, monkeypatch):
    def full(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    before = sorted(kept.folder.iterdir())
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        kept.save({"step": 201}, 201, keep=2)
    assert sorted(kept.folder.iterdir()) == before
    assert kept.newest()["step"] == 200


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(kept):
    (kept.folder / "0abc.writing").write_bytes(b"half of it")
    assert kept.newest()["step"] == 200
    kept.save({"step": 201}, 201, keep=1)
    assert len(list(kept.folder.iterdir())) == 1


def test_every_flipped_bit_is_found_and_the_checkpoint_before_is_used(kept, caplog):
    chance, path = random.Random(0), max(kept.folder.iterdir())
    whole = path.read_bytes()
    for place in [0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(200))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        caplog.clear()
        assert kept.newest()["step"] == 10
        assert caplog.messages == [f"{path}: damaged ({BYTES}); resumed from the one before it"]


@pytest.mark.parametrize("content", [b"", b"half", b"\x00" * 4096, "cut"])
def test_where_none_is_whole_each_is_named(kept, content):
    paths = sorted(kept.folder.iterdir(), reverse=True)
    for path in paths:
        path.write_bytes(path.read_bytes()[:-7] if content == "cut" else content)
    lines = [f"{path}: damaged ({BYTES})" for path in paths]
    with pytest.raises(UserError) as error:
        kept.newest()
    assert str(error.value).splitlines() == [*lines, f"{kept.folder}: holds no whole checkpoint; choose another --out"]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_a_bomb_that_is_named_as_if_it_were_whole_does_not_go_off(kept, tmp_path):
    file = io.BytesIO()
    torch.save({"step": Bomb(tmp_path / "gone off")}, file)
    name = f"0000000300-{hashlib.sha256(file.getvalue()).hexdigest()}.pt"
    (kept.folder / name).write_bytes(file.getvalue())
    assert kept.newest()["step"] == 200
    assert not (tmp_path / "gone off").exists()
    torch.load(kept.folder / name, weights_only=False)
    assert (tmp_path / "gone off").exists()


def test_another_format_is_one_line(kept, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(UserError, match=r"pt: a checkpoint of format 3, this avcl resumes 1; resume it with"):
        kept.newest()


def test_saving_a_memory_copies_none_of_its_rows(make_learner):
    learner = make_learner(ER(memory=Memory(capacity=64)))
    train(learner, Noise(tasks=1))
    memory = learner.strategies[0].memory
    rows = memory.state_dict()["rows"]
    assert 0 < len(memory) < 64
    for key, value in memory._rows.items():
        assert rows[key].data_ptr() == value.data_ptr()
        assert rows[key].untyped_storage().nbytes() == len(memory) * value[0].nbytes
