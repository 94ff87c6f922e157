"""STELLA+: how many clips fit, what is kept of them, and that all else is STELLA; then the ablations of both."""

import math

import pytest
import torch
from helpers.toys import Passes, clips, enter, step, train, weights

from avcl.backbones.cavmae import CavMae
from avcl.clip import Clip
from avcl.errors import SettingsError
from avcl.memory import Memory
from avcl.plugins import stella
from avcl.plugins.derpp import DERpp
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus
from avcl.testing.toys import Noise
from avcl.training.learner import Learner

BOTH = pytest.mark.parametrize("cls", [Stella, StellaPlus])
PAPER = {"frames": 4, "height": 224, "width": 224, "times": 1024, "mels": 128}
WHOLE = 4 * (512 * 256 + 784 * 768)  # bytes of a clip at the paper's sizes
EMBEDDINGS = 4 * 2 * 768


def small(cls=StellaPlus, **settings):
    """For the Noise scenario: 8 video patches, 4 x 2 of audio, width 24."""
    return cls(**{"heads": 4, "chunk": 2, "memory": Memory(capacity=4)} | settings)


def batch(first, count=4):
    return clips(range(first, first + count), dtype=torch.float32)


def paper_learner(strategy, dim=24, heads=4):
    """A shallow backbone for clips of the paper's size."""
    few = {"depth": 1, "fusion_depth": 1, "decoder_dim": 32, "decoder_heads": 2, "decoder_depth": 1}
    return Learner(backbone=CavMae(**PAPER, **few, dim=dim, heads=heads), strategy=strategy)


# ---- room ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "audio", "video", "clips"),
    [
        (2000, 0.5, 0.5, 4000),
        (5000, 0.5, 0.5, 10000),
        (2000, 1, 1, 2000),
        (2000, 0.375, 0.5, 4187),
        (2000, 0.625, 0.5, 3828),
        (2000, 0.5, 0.375, 5033),
        (2000, 0.5, 0.625, 3318),
    ],
)
def test_there_is_room_for_as_many_clips_as_the_paper_has(capacity, audio, video, clips):
    memory = Memory(capacity=capacity)
    paper_learner(StellaPlus(memory=memory, keep_audio=audio, keep_video=video, heads=4))
    assert memory.state_dict()["slots"] == clips
    assert memory.capacity == capacity, "the setting is the setting"
    kept = 4 * (int(512 * audio) * 256 + int(784 * video) * 768)
    assert clips == capacity * WHOLE // kept


def test_every_process_has_its_share_of_the_room(monkeypatch):
    monkeypatch.setattr("avcl.memory.world_size", lambda: 4)
    memory = Memory(capacity=2000)
    paper_learner(StellaPlus(memory=memory, heads=4))
    assert memory.state_dict()["slots"] == 1000


def test_it_takes_no_more_bytes_than_derpp():
    """At the paper's sizes, with everything that is stored beside the patches: within one percent."""
    clip = Clip.cut(torch.randn(1, 4, 3, 224, 224), torch.randn(1, 1, 1024, 128), 16)
    made = {}
    for cls, capacity in ((DERpp, 20), (Stella, 20), (StellaPlus, 20)):
        learner = paper_learner(cls(memory=Memory(capacity=capacity)), dim=768, heads=12)
        step(learner, clip)
        made[cls] = learner.strategies[0].memory
    budget, places = WHOLE + EMBEDDINGS, 8 + 2 * (512 + 784)
    assert made[DERpp].nbytes == budget + places
    assert made[Stella].nbytes == budget + places + EMBEDDINGS + 2 * 4 * (512 + 784)
    assert made[StellaPlus].nbytes == WHOLE // 2 + 2 * EMBEDDINGS + 8 + 2 * (256 + 392)
    assert made[StellaPlus].state_dict()["slots"] == 40
    assert budget * 20 < made[StellaPlus].full_bytes <= 1.01 * budget * 20
    assert made[StellaPlus].full_bytes == pytest.approx(1.006 * made[DERpp].full_bytes, rel=5e-4)
    assert 2000 * budget // made[StellaPlus].nbytes == 3971


def test_a_budget_in_bytes_counts_everything(noise, make_learner):
    item = 4 * (4 * 768 + 4 * 256) + 4 * 4 * 24 + 2 * (4 + 4) + 8
    strategy = small(memory=Memory(budget_bytes=7 * item - 1))
    train(make_learner(strategy), noise)
    assert len(strategy.memory) == 6
    assert strategy.log()["memory_bytes"] == strategy.full_bytes() == 6 * item


# ---- what is kept --------------------------------------------------------------------------------------------


def test_memory_holds_the_chosen_patches_in_their_place(make_learner):
    strategy = small()
    learner = make_learner(strategy)
    step(learner, batch(0))
    past, whole = strategy.memory.read(torch.arange(4)), batch(0)
    assert set(past.extra) == {"audio_embedding", "video_embedding", "audio_query", "video_query"}
    assert torch.equal(past.clip.index, whole.index)
    for side in ("video", "audio"):
        chosen, at = getattr(past.clip, side), getattr(past.clip, f"{side}_at")
        assert at.shape == (4, 4)
        assert torch.equal(at, getattr(learner.batch, f"{side}_at"))
        assert torch.equal(chosen, getattr(whole.take(past.clip.video_at, past.clip.audio_at), side))
    assert strategy.memory.state_dict()["rows"]["video_at"].dtype == torch.int16


def test_what_is_replayed_is_what_was_stored(noise, make_learner):
    """A clip that was offered when it was current comes back with the same patches every time."""
    strategy = small()
    learner = make_learner(strategy)
    stored = {}
    observe = strategy.observe

    def watch(learner):
        observe(learner)
        for row in range(learner.num_current):
            known = stored.setdefault(int(learner.batch.index[row]), set())
            known.add((*learner.batch.video_at[row].tolist(), *learner.batch.audio_at[row].tolist()))
        if strategy._past is not None:
            past = learner.batch[learner.num_current :]
            assert torch.equal(past.video, strategy._past.clip.video)
            for row in range(len(past)):
                places = (*past.video_at[row].tolist(), *past.audio_at[row].tolist())
                assert places in stored[int(past.index[row])]

    strategy.observe = watch
    train(learner, noise)
    assert len(stored) == 32 and learner.steps == 16
    assert len(strategy.memory) == 8, "twice as many as the capacity of 4 whole clips"


def test_the_first_step_is_stellas(make_learner):
    after = []
    for cls in (Stella, StellaPlus):
        learner = make_learner(small(cls))
        step(learner, batch(0))
        after.append(weights(learner))
    assert torch.equal(*after)


def test_current_clips_are_scored_as_stella_does(make_learner):
    """Past clips are the same, and so are the queries that were stored with them."""
    found = []
    for cls in (Stella, StellaPlus):
        strategy = small(cls, memory=Memory(capacity=16))
        learner = make_learner(strategy)
        step(learner, batch(0))
        strategy.prepare(enter(learner, batch(4)))
        assert strategy._scores["video_correlation"].max() > 0
        found.append((strategy._scores, learner.batch[:4]))
    (scores, chosen), (same_scores, same_chosen) = found
    assert all(torch.equal(scores[key], same_scores[key]) for key in scores)
    assert torch.equal(chosen.video_at, same_chosen.video_at) and torch.equal(chosen.audio_at, same_chosen.audio_at)


@BOTH
def test_only_current_clips_are_scored(make_learner, cls):
    """A pass over B whole clips to score, one over 2 B half clips to train; gradients flow through the latter."""
    learner = make_learner(small(cls))
    step(learner, batch(0))
    passes = Passes(learner.backbone)
    step(learner, batch(4))
    assert passes.seen == (1, 1, 1)
    assert passes.clips == [4, 8]


# ---- ablations -----------------------------------------------------------------------------------------------


@pytest.fixture
def pruned(monkeypatch):
    """Every result of ``prune``, audio before video."""
    seen, prune = [], stella.prune
    monkeypatch.setattr(stella, "prune", lambda *args, **kwargs: seen.append(prune(*args, **kwargs)) or seen[-1])
    return seen


@BOTH
def test_importance_alone_prunes_nothing(noise, make_learner, pruned, cls):
    strategy = small(cls, select_by="importance")
    learner = make_learner(strategy)
    train(learner, noise)
    assert len(pruned) == 2 * 15 and not any(map(torch.any, pruned))
    assert strategy.log()["audio_pruned"] == strategy.log()["video_pruned"] == 0
    assert strategy._scores["video_importance"].std() > 0
    assert strategy.log()["video_entropy"] < 1


@BOTH
def test_correlation_alone_draws_uniformly_from_what_is_left(noise, make_learner, pruned, cls):
    strategy = small(cls, select_by="correlation", audio_selection="unconstrained")
    learner = make_learner(strategy)
    train(learner, noise)
    assert sum(map(torch.sum, pruned)) > 100
    for side, without in (("audio", pruned[-2]), ("video", pruned[-1])):
        assert torch.equal(strategy._scores[f"{side}_importance"], torch.full((4, 8), 1 / 8))
        at = getattr(learner.batch, f"{side}_at")[: len(without)]
        assert not without.gather(1, at).any()
        assert strategy.log()[f"{side}_entropy"] == pytest.approx(1)


def test_correlation_alone_draws_uniformly_from_the_first_step_on(make_learner):
    often = torch.zeros(8)
    for seed in range(60):
        strategy = small(select_by="correlation")
        learner = make_learner(strategy, seed=seed)
        strategy.prepare(enter(learner, batch(0)))
        often += torch.bincount(learner.batch.video_at.flatten(), minlength=8)
    share, rounds = often / 240, 240
    assert ((share - 0.5).abs() < 4 * math.sqrt(0.25 / rounds)).all()


def test_what_importance_alone_and_correlation_alone_are_not(make_learner):
    """All three differ from each other, from the same start."""
    after = []
    for select_by in ("both", "importance", "correlation"):
        learner = make_learner(small(select_by=select_by))
        for first in (0, 4, 8):
            step(learner, batch(first))
        after.append(weights(learner))
    assert not any(torch.equal(after[i], after[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("along", "chunk", "allowed"),
    [
        ("time", 1, lambda rows: all(len({at // 2 for at in row}) == 2 for row in rows)),
        ("time", 2, lambda rows: all(row in ([0, 1, 2, 3], [4, 5, 6, 7]) for row in rows)),
        ("time", 4, lambda rows: all(row in ([0, 1, 2, 3], [4, 5, 6, 7]) for row in rows)),
        ("frequency", 1, lambda rows: all(row in ([0, 2, 4, 6], [1, 3, 5, 7]) for row in rows)),
        ("frequency", 2, lambda rows: all(row in ([0, 2, 4, 6], [1, 3, 5, 7]) for row in rows)),
        ("unconstrained", 3, lambda rows: len({tuple(row) for row in rows}) > 6),
    ],
)
@BOTH
def test_audio_is_chosen_in_chunks(noise, make_learner, cls, along, chunk, allowed):
    """Of 4 times x 2 frequencies: whole times, whole chunks of two, halves of what is cut, whole frequencies."""
    strategy = small(cls, select_by="importance", audio_selection=along, chunk=chunk)
    learner = make_learner(strategy, epochs=1, batch_size=8)
    train(learner, noise)
    rows = learner.batch.audio_at[:8].sort(1).values.tolist()
    assert allowed(rows)
    assert len({tuple(row) for row in rows}) > 1


@pytest.mark.parametrize(("audio", "video"), [(0.5, 0.75), (0.625, 0.5), (0.75, 0.875), (1.0, 1.0)])
@BOTH
def test_as_many_are_kept_as_asked_for(noise, make_learner, cls, audio, video):
    learner = make_learner(small(cls, keep_audio=audio, keep_video=video), epochs=1)
    train(learner, noise)
    assert learner.batch.audio_at.shape == (8, 8 * audio)
    assert learner.batch.video_at.shape == (8, 8 * video)
    assert all(math.isfinite(loss) for loss in learner.losses.values())


@BOTH
def test_a_lower_temperature_is_more_sure(make_learner, cls):
    entropies = []
    for temperature in (0.1, 0.4, 2.0):
        strategy = small(cls, temperature=temperature)
        learner = make_learner(strategy)
        with torch.no_grad():
            for linear in (strategy.matching.to_a_q, strategy.matching.to_a_k, strategy.matching.to_v_q):
                linear.weight.mul_(30)
        step(learner, batch(0))
        entropies.append(strategy.log()["audio_entropy"])
    assert entropies[0] < entropies[1] < entropies[2]
    assert entropies[0] < 0.95


def test_settings():
    with pytest.raises(SettingsError, match=r"select_by: invalid value 'neither': .*'both', 'importance' or 'corr"):
        StellaPlus(select_by="neither")
    assert StellaPlus().settings() == Stella().settings()
    assert StellaPlus().settings()["select_by"] == "both"


def test_settings_that_do_not_fit_carry_its_name(make_learner):
    with pytest.raises(SettingsError, match=r"^stella-plus.keep_video: invalid value 0.375: keeps too few"):
        make_learner(small(keep_video=0.375))


def test_noise_is_the_scenario_of_these_tests():
    assert Noise().shape.grid(16).audio == Noise().shape.grid(16).video == 8
