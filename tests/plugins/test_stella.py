"""STELLA: the authors' two recorded steps through the real loop, and what must hold on any stream."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.convert import fill
from avcl.backbones.convert.names import official_name
from avcl.clip import Clip
from avcl.errors import SettingsError, UserError
from avcl.experiment import checkpoint
from avcl.memory import Memory
from avcl.plugins import stella
from avcl.plugins.stella import Stella
from avcl.plugins.stella.matching import partners
from avcl.training.learner import Learner

GOLDEN = Path(__file__).parents[1] / "golden" / "stella_steps.safetensors"
# What the authors call the things that enter memory.
STORED = {
    "audio_importance": "n_attn_va",
    "video_importance": "n_attn_av",
    "audio_correlation": "prob_a_att",
    "video_correlation": "prob_v_att",
    "audio_query": "audio_query",
    "video_query": "video_query",
    "audio_embedding": "logits_a",
    "video_embedding": "logits_v",
}


def same(found, expected):
    torch.testing.assert_close(found.detach().double(), expected.double().reshape(found.shape), rtol=0, atol=1e-6)


def iterate(learner, clip):
    """One batch through the learner's own loop."""
    learner.is_training, learner.current = True, clip
    learner.training_iteration()


def small(**settings):
    """STELLA for the Noise scenario: 8 video patches, 4 x 2 of audio, width 24."""
    return Stella(**{"heads": 4, "chunk": 2, "memory": Memory(capacity=8)} | settings)


# ---- parity --------------------------------------------------------------------------------------------------


@pytest.fixture
def golden():
    with safe_open(GOLDEN, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["grad_norms"])


@pytest.fixture
def authors(golden, monkeypatch):
    """A learner with the authors' weights, which a rate of zero never changes, and ``replay(step)``."""
    numbers, _ = golden
    weights = {key.removeprefix("weights/"): value for key, value in numbers.items() if key.startswith("weights/")}
    backbone = CavMae(
        frames=2,
        height=48,
        width=48,
        times=128,
        dim=48,
        heads=3,
        depth=2,
        fusion_depth=1,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=4,
    ).double()
    matching = {f"matching.{key}": value for key, value in fill(backbone, weights, "stella", "golden").matching.items()}
    strategy = Stella(chunk=2, official_pooling=True, memory=Memory(capacity=16))
    learner = Learner(backbone=backbone, strategy=strategy, initial=matching, batch_size=4, lr=0.0)

    def replay(step):
        recorded = {key.removeprefix(f"step{step}/"): value for key, value in numbers.items()}
        noise = recorded["rand/0"], recorded["rand/1"]
        monkeypatch.setattr(backbone, "draw_masks", lambda *_: backbone.rank(*noise))
        wrong = (recorded["vam_labels"] == 0).nonzero().squeeze(1)  # two of four: they can only be swapped
        partner = torch.arange(4).index_copy(0, wrong, wrong.flip(0))
        monkeypatch.setattr(stella, "partners", lambda *_: partner)
        iterate(learner, Clip.cut(recorded["video"], recorded["audio"], 16))
        return recorded

    return learner, strategy, replay


def check(learner, strategy, recorded, drift):
    losses = {"mae_audio": "mae_audio_loss", "mae_video": "mae_frame_loss", "contrastive": "contrastive_loss"}
    for ours, theirs in {**losses, "matching": "vam_loss", **drift}.items():
        same(learner.losses[ours], recorded[theirs])
    assert learner.losses.keys() == {*losses, "matching", *drift}
    same(learner.output.audio, recorded["audio_output"])
    same(learner.output.video, recorded["video_output"])
    entered = strategy.memory.read(torch.arange(len(strategy.memory) - 4, len(strategy.memory)))
    assert entered.extra.keys() == STORED.keys()
    for ours, theirs in STORED.items():
        same(entered.extra[ours], recorded[f"pushed/{theirs}"])
    same(entered.clip.video, Clip.cut(recorded["video"], recorded["audio"], 16).video)


def test_the_first_step_is_the_authors(authors, golden):
    learner, strategy, replay = authors
    recorded = replay(0)
    check(learner, strategy, recorded, drift={})
    assert torch.equal(learner.batch.video_at, recorded["ids_v"][:, :9])
    assert torch.equal(learner.batch.audio_at, recorded["ids_a"][:, :32])


def test_its_gradients_are_the_authors(authors, golden):
    learner, strategy, replay = authors
    replay(0)
    named = {
        f"backbone.transformer.{official_name(key, 'stella')}": p for key, p in learner.backbone.named_parameters()
    }
    for key, p in strategy.matching.named_parameters():
        key = key.replace("pooler", "matching_score.pooler.dense").replace("fc", "matching_score.fc")
        named[f"avmatching_module.{key}"] = p
    norms = {key: p.grad.norm().item() for key, p in named.items() if p.requires_grad}
    assert norms == pytest.approx(golden[1], rel=1e-6, abs=1e-9)


def test_a_step_with_replay_is_the_authors(authors, golden, monkeypatch):
    """What is replayed comes out of the memory that the first step filled; the authors' draws are fed in."""
    learner, strategy, replay = authors
    replay(0)
    numbers, _ = golden
    drawn = torch.tensor([3, 1, 0, 2])
    same(strategy.memory.read(drawn).extra["audio_query"], numbers["step1/buffer_sample/audio_query"])
    monkeypatch.setattr(strategy.memory, "sample", lambda count: strategy.memory.read(drawn))
    given = {}

    def choose(side, chosen):
        def draw(importance, pruned, keep, **_):
            given[f"{side}_importance"] = importance
            assert keep == chosen.shape[1]
            return chosen

        return draw

    def prune(correlation, *, use, **to):
        given[use.name] = correlation
        return stella_prune(correlation, use=use, **to)

    stella_prune = stella.prune
    monkeypatch.setattr(stella, "prune", prune)
    monkeypatch.setattr(stella, "sample", choose("video", numbers["step1/ids_v"][:, :9]))
    monkeypatch.setattr(stella, "select_audio", choose("audio", numbers["step1/ids_a"][:, :32]))
    check(learner, strategy, replay(1), drift={"drift": "penalty_loss"})
    for ours, theirs in {
        "audio_importance": "n_attn_va",
        "video_importance": "n_attn_av",
        "PRUNE_AUDIO": "prob_a_att",
        "PRUNE_VIDEO": "prob_v_att",
    }.items():
        same(given[ours], torch.cat([numbers[f"step1/pushed/{theirs}"], numbers[f"step1/buffer_sample/{theirs}"]]))
    assert (strategy.memory.read(torch.arange(4, 8)).extra["video_correlation"] > 0).sum() == 4 * 9


# ---- on any stream -------------------------------------------------------------------------------------------


@pytest.fixture
def spied(monkeypatch):
    """Every result of ``prune`` and every first argument of ``correlation``'s ``past``, as they happen."""
    seen = {"prune": [], "past": []}
    prune, correlation = stella.prune, stella.correlation

    def spy_prune(*args, **kwargs):
        seen["prune"].append(prune(*args, **kwargs))
        return seen["prune"][-1]

    def spy_correlation(key, past, *args):
        seen["past"].append(past)
        return correlation(key, past, *args)

    monkeypatch.setattr(stella, "prune", spy_prune)
    monkeypatch.setattr(stella, "correlation", spy_correlation)
    return seen


def test_half_of_the_patches_are_trained_on_and_none_of_the_pruned(noise, make_learner, spied):
    strategy = small()
    learner = make_learner(strategy)
    trained = []
    step = learner.forward

    def watch():
        trained.append(learner.batch)
        return step()

    learner.forward = watch
    learner.train(noise.benchmark().train_stream)
    assert [len(batch) for batch in trained] == [4] + [8] * 15
    assert all(batch.video_at.shape[1] == batch.audio_at.shape[1] == 4 for batch in trained)
    pairs = zip(spied["prune"][::2], spied["prune"][1::2], strict=True)
    for batch, (audio_pruned, video_pruned) in zip(trained[1:], pairs, strict=True):
        assert not audio_pruned.gather(1, batch.audio_at).any()
        assert not video_pruned.gather(1, batch.video_at).any()
    assert sum(x.sum() for x in spied["prune"]) > 100
    kept = strategy.memory.read(torch.arange(8))
    assert kept.clip.video.shape[1] == kept.clip.audio.shape[1] == 8, "memory keeps whole clips"


def test_the_log_tells_whether_it_is_alive(noise, make_learner):
    strategy = small()
    assert strategy.settings()["alpha"] == 0.5
    learner = make_learner(strategy)
    learner.train(noise.benchmark().train_stream[0])
    log = strategy.log()
    assert log["memory_clips"] == 8 and log["memory_bytes"] == strategy.memory.nbytes > 0
    assert 0 <= log["matching_accuracy"] <= 1
    for side in ("audio", "video"):
        assert 0 < log[f"{side}_pruned"] < 0.5
        assert 0.9 < log[f"{side}_entropy"] <= 1 + 1e-6
    assert set(learner.losses) == {"mae_audio", "mae_video", "contrastive", "matching", "drift"}


def test_entropy_by_hand():
    even, one, two = torch.ones(1, 4), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.5, 0.5, 0, 0]])
    found = [stella._entropy(x).item() for x in (even, one, two, torch.cat([even, one]))]
    assert found == pytest.approx([1, 0, 0.5, 0.5])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_small_batches(noise, make_learner, monkeypatch, batch_size):
    """With one or two clips there is nothing to shuffle: every pair is a true one."""
    drawn = []
    monkeypatch.setattr(stella, "partners", lambda *args: drawn.append(partners(*args)) or drawn[-1])
    learner = make_learner(small(), batch_size=batch_size, epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    assert all(math.isfinite(loss) for loss in learner.losses.values())
    assert len(drawn) == 16 // batch_size
    assert all(bool((x == torch.arange(batch_size)).all()) == (batch_size < 3) for x in drawn)


def test_fewer_past_than_current_clips_are_paired_in_turn(noise, make_learner, spied):
    strategy = small(memory=Memory(capacity=3))
    learner = make_learner(strategy, batch_size=8, epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    assert len(learner.batch) == 8 + 3
    past = spied["past"][-1]
    assert torch.equal(past, strategy._past.extra["audio_query"][[0, 1, 2, 0, 1, 2, 0, 1]])


@pytest.mark.parametrize("replay", [2, 6])
def test_more_or_fewer_are_replayed_when_asked_for(noise, make_learner, replay):
    learner = make_learner(small(replay=replay), epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    assert len(learner.batch) == 4 + replay


@pytest.mark.parametrize("settings", [{"audio_selection": "frequency"}, {"audio_selection": "unconstrained"}])
def test_other_ways_to_choose_audio(noise, make_learner, settings):
    learner = make_learner(small(**settings), epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    assert learner.batch.audio_at.shape == (8, 4)
    assert all(len(set(row)) == 4 for row in learner.batch.audio_at.tolist())


def test_everything_kept_is_everything_in_some_order(noise, make_learner):
    """Pruned patches fill up what is missing: then selection is a permutation."""
    learner = make_learner(small(keep_audio=1.0, keep_video=1.0), epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    every = torch.arange(8).expand(8, -1)
    assert torch.equal(learner.batch.video_at.sort(1).values, every)
    assert torch.equal(learner.batch.audio_at.sort(1).values, every)


def test_half_precision_trains_every_weight(noise, make_learner):
    """Scoring without gradient must not leave casts behind that the training pass would take up."""
    learner = make_learner(small(), precision="bf16", epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    assert all(math.isfinite(loss) for loss in learner.losses.values())
    exact = make_learner(small(), epochs=1)
    exact.train(noise.benchmark().train_stream[0])
    with_gradient = [p.grad is not None for p in exact.parameters()]
    assert [p.grad is not None for p in learner.parameters()] == with_gradient
    assert all(with_gradient)
    assert strategy_dtypes(learner) == strategy_dtypes(exact) == {torch.float32}


def strategy_dtypes(learner):
    return {value.dtype for value in learner.strategies[0]._scores.values()}


def test_the_matching_loss_never_reaches_the_backbone(noise, make_learner):
    def gradients(weight):
        learner = make_learner(small(matching_weight=weight), epochs=1, batch_size=16)
        learner.train(noise.benchmark().train_stream[0])
        matching = torch.cat([p.grad.flatten() for p in learner.strategies[0].matching.parameters()])
        return [p.grad for p in learner.backbone.parameters() if p.requires_grad], matching

    (with_it, some), (without, none) = gradients(1.0), gradients(0.0)
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert some.abs().max() > 0 and none.abs().max() == 0


def test_penalty_is_alpha_times_the_drift(noise, make_learner):
    learner = make_learner(small(alpha=3.0), epochs=1)
    learner.train(noise.benchmark().train_stream[0])
    stored, output = learner.strategies[0]._past.extra, learner.output
    audio = (output.audio[4:] - stored["audio_embedding"]).square().mean()
    video = (output.video[4:] - stored["video_embedding"]).square().mean()
    same(learner.losses["drift"], 3 * (audio + video))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(noise, make_learner):
    def run(seed):
        learner = make_learner(small(), seed=seed)
        for experience in noise.benchmark().train_stream:
            learner.train(experience)
        return torch.cat([p.detach().flatten() for p in learner.strategies[0].matching.parameters()])

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened(noise, make_learner, tmp_path):
    first, second = noise.benchmark().train_stream
    straight = make_learner(small())
    straight.train(first)
    checkpoint.save(tmp_path / "state.pt", straight.state_dict())
    again = make_learner(small())
    again.load_state_dict(checkpoint.load(tmp_path / "state.pt"))
    for learner in (straight, again):
        learner.train(second)
    for a, b in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert straight.strategies[0].log() == again.strategies[0].log()


# ---- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("official", [False, True])
def test_initial_weights_of_the_matching_module(make_learner, official):
    trained = stella.Matching(dim=24, heads=4)
    names = {"pooler.": "matching_score.pooler.dense.", "fc.": "matching_score.fc."} if official else {}
    initial = {"backbone.norm.weight": torch.zeros(1)}
    for key, value in trained.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        initial[f"matching.{key}"] = value
    learner = make_learner(small(), initial=initial)
    for key, value in learner.strategies[0].matching.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key])


def test_initial_weights_that_do_not_fit(make_learner):
    initial = {f"matching.{key}": value for key, value in stella.Matching(dim=48).state_dict().items()}
    with pytest.raises(UserError, match=r"stella: initial weights: does not fit Matching: norm_a.weight is \(48,\)"):
        make_learner(small(), initial=initial)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"heads": 5}, ["stella.heads: 5 does not divide the backbone's width 24; choose a divisor"]),
        ({"chunk": 3}, ["stella.chunk: 3 does not divide the 4 patches of time; choose a divisor"]),
        (
            {"audio_selection": "frequency", "chunk": 4},
            ["stella.chunk: 4 does not divide the 2 patches of frequency; choose a divisor"],
        ),
        ({"keep_video": 0.375}, ["stella.keep_video: invalid value 0.375: keeps too few: mask_ratio: .* 3 of 8 video"]),
        ({"keep_audio": 0.01}, ["stella.keep_audio: invalid value 0.01: keeps too few: .* audio"]),
        (
            {"heads": 7, "chunk": 5, "keep_audio": 0.1},
            ["stella.heads: 7", "stella.chunk: 5", "stella.keep_audio: invalid value 0.1"],
        ),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_all_named(make_learner, settings, lines):
    with pytest.raises(SettingsError) as caught:
        make_learner(small(**settings))
    assert len(caught.value.mistakes) == len(lines)
    for found, expected in zip(caught.value.mistakes, lines, strict=True):
        assert "\n" not in found
        assert re.search(expected, found)


def test_chunks_do_not_matter_when_patches_are_chosen_one_by_one(make_learner):
    make_learner(small(chunk=3, audio_selection="unconstrained"))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"keep_video": 0}, "keep_video: invalid value 0: must be greater than 0"),
        ({"keep_audio": 1.5}, "keep_audio: invalid value 1.5: must be less than or equal to 1"),
        ({"temperature": 0}, "temperature: invalid value 0"),
        ({"cut": "head"}, "cut: invalid value 'head': must be 'neighbours' or 'tail'"),
        ({"audio_selection": "pitch"}, "audio_selection: invalid value 'pitch'"),
    ],
)
def test_settings_of_the_wrong_value(settings, text):
    with pytest.raises(SettingsError, match=text):
        Stella(**settings)


def test_the_defaults_are_the_papers():
    settings = Stella().settings()
    published = {"alpha": 0.5, "temperature": 0.4, "keep_video": 0.5, "keep_audio": 0.5, "chunk": 1 / 16, "heads": 12}
    assert published.items() <= settings.items()
    assert settings["memory"]["capacity"] == 2000
    assert settings["matching_weight"] == settings["correlation_temperature"] == 1
    assert not settings["official_pooling"]
