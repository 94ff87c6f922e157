"""STELLA: the authors' two recorded steps through the real loop, and what must hold on any stream."""

import re

import pytest
import torch
from helpers.official import golden as recorded
from helpers.official import part
from helpers.toys import clips, enter, fed, four, held, same, small, step, watched, weights

from avcl.backbones.cavmae import CavMae
from avcl.backbones.convert.convert import fill
from avcl.backbones.convert.names import official_name
from avcl.clip import Clip
from avcl.errors import SettingsError, UserError
from avcl.plugins import stella
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus
from avcl.training.learner import Learner

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


# ---- parity --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    return recorded("stella_steps")


@pytest.fixture
def authors(golden, monkeypatch):
    """A learner with the authors' weights, which a rate of zero never changes, and ``replay(step)``."""
    numbers, _ = golden
    sizes = {"frames": 2, "height": 48, "width": 48, "times": 128, "dim": 48, "heads": 3, "depth": 2, "fusion_depth": 1}
    backbone = CavMae(**sizes, decoder_dim=32, decoder_depth=1, decoder_heads=4).double()
    filled = fill(backbone, part(numbers, "weights/"), "stella", "golden")
    matching = {f"matching.{key}": value for key, value in filled.matching.items()}
    strategy = small(Stella, capacity=16, dtype="float32", heads=12, official_pooling=True)
    learner = Learner(backbone=backbone, strategy=strategy, initial=matching, batch_size=4, lr=0.0)

    def replay(number):
        recorded = part(numbers, f"step{number}/")
        noise = recorded["rand/0"], recorded["rand/1"]
        monkeypatch.setattr(backbone, "draw_masks", lambda *_: backbone.rank(*noise))
        wrong = (recorded["vam_labels"] == 0).nonzero().squeeze(1)  # two of four: they can only be swapped
        partner = torch.arange(4).index_copy(0, wrong, wrong.flip(0))
        monkeypatch.setattr(stella, "partners", lambda *_: partner)
        step(learner, Clip.cut(recorded["video"], recorded["audio"], 16))
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


def test_the_first_step_and_its_gradients_are_the_authors(authors, golden):
    learner, strategy, replay = authors
    recorded = replay(0)
    check(learner, strategy, recorded, drift={})
    assert torch.equal(learner.batch.video_at, recorded["ids_v"][:, :9])
    assert torch.equal(learner.batch.audio_at, recorded["ids_a"][:, :32])
    named = {
        f"backbone.transformer.{official_name(key, 'stella')}": p for key, p in learner.backbone.named_parameters()
    }
    for key, p in strategy.matching.named_parameters():
        key = key.replace("pooler", "matching_score.pooler.dense").replace("fc", "matching_score.fc")
        named[f"avmatching_module.{key}"] = p
    norms = {key: p.grad.norm().item() for key, p in named.items() if p.requires_grad}
    assert norms == pytest.approx(golden[1]["grad_norms"], rel=1e-6, abs=1e-9)


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
def pruned(monkeypatch):
    """Every result of ``prune``, audio before video."""
    seen, prune = [], stella.prune
    monkeypatch.setattr(stella, "prune", lambda *args, **kwargs: seen.append(prune(*args, **kwargs)) or seen[-1])
    return seen


def test_half_of_the_patches_are_trained_on_and_none_of_the_pruned(pruned):
    """Memory keeps whole clips; the log tells whether it is alive."""
    strategy = small(Stella)
    learner = fed(strategy)
    trained = watched(learner)
    for first in (0, 4, 8, 12, 0, 4):
        step(learner, four(first))
    batches = [batch for batch, _ in trained]
    assert [len(batch) for batch in batches] == [4] + [8] * 5
    assert all(batch.video_at.shape[1] == batch.audio_at.shape[1] == 4 for batch in batches)
    for batch, audio, video in zip(batches[1:], pruned[::2], pruned[1::2], strict=True):
        assert not audio.gather(1, batch.audio_at).any()
        assert not video.gather(1, batch.video_at).any()
    assert sum(x.sum() for x in pruned) > 40
    assert held(strategy).clip.video.shape[1] == held(strategy).clip.audio.shape[1] == 8
    log = strategy.log()
    assert log["memory_clips"] == 8 and log["memory_bytes"] == strategy.memory.nbytes > 0
    assert 0 <= log["matching_accuracy"] <= 1
    for side in ("audio", "video"):
        assert 0 < log[f"{side}_pruned"] < 0.5
        assert 0.9 < log[f"{side}_entropy"] <= 1 + 1e-6


def test_entropy_by_hand():
    even, one, two = torch.ones(1, 4), torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.5, 0.5, 0, 0]])
    found = [stella._entropy(x).item() for x in (even, one, two, torch.cat([even, one]))]
    assert found == pytest.approx([1, 0, 0.5, 0.5])


def test_fewer_past_than_current_clips_are_paired_in_turn(monkeypatch):
    strategy, past, correlation = small(Stella, capacity=3), [], stella.correlation
    monkeypatch.setattr(stella, "correlation", lambda key, q, *more: past.append(q) or correlation(key, q, *more))
    learner = fed(strategy, 0)
    step(learner, clips(range(8, 16)))
    assert len(learner.batch) == 8 + 3
    assert torch.equal(past[-1], strategy._past.extra["audio_query"][[0, 1, 2, 0, 1, 2, 0, 1]])


@pytest.mark.parametrize(
    ("along", "chunk", "allowed"),
    [
        ("time", 1, lambda row: len({at // 2 for at in row}) == 2),
        ("time", 2, lambda row: row in ([0, 1, 2, 3], [4, 5, 6, 7])),
        ("time", 4, lambda row: row in ([0, 1, 2, 3], [4, 5, 6, 7])),
        ("frequency", 1, lambda row: row in ([0, 2, 4, 6], [1, 3, 5, 7])),
        ("frequency", 2, lambda row: row in ([0, 2, 4, 6], [1, 3, 5, 7])),
        ("unconstrained", 3, lambda row: len(set(row)) == 4),
    ],
)
def test_audio_is_chosen_in_chunks(along, chunk, allowed):
    """Of 4 times x 2 frequencies: whole times, whole chunks of two, halves of what is cut, whole frequencies."""
    learner = fed(small(Stella, select_by="importance", audio_selection=along, chunk=chunk), 0)
    step(learner, clips(range(8)))
    rows = learner.batch.audio_at.sort(1).values.tolist()
    assert all(allowed(row) for row in rows)
    assert len({tuple(row) for row in rows}) > (6 if along == "unconstrained" else 1)


@pytest.mark.parametrize(("audio", "video"), [(0.5, 0.75), (0.625, 0.5), (0.75, 0.875), (1.0, 1.0)])
def test_as_many_are_kept_as_asked_for(audio, video):
    """Pruned patches fill up what is missing: if all are kept, selection is a permutation."""
    batch = fed(small(Stella, keep_audio=audio, keep_video=video), 0, 4).batch
    for at, kept in ((batch.audio_at, 8 * audio), (batch.video_at, 8 * video)):
        assert at.shape == (8, kept)
        assert all(len(set(row)) == kept for row in at.tolist())


def test_a_lower_temperature_is_more_sure():
    entropies = []
    for temperature in (0.1, 0.4, 2.0):
        strategy = small(Stella, temperature=temperature)
        learner = fed(strategy)
        with torch.no_grad():
            for linear in (strategy.matching.to_a_q, strategy.matching.to_a_k, strategy.matching.to_v_q):
                linear.weight.mul_(30)
        step(learner, four(0))
        entropies.append(strategy.log()["audio_entropy"])
    assert entropies[0] < entropies[1] < entropies[2]
    assert entropies[0] < 0.95


def test_the_matching_loss_never_reaches_the_backbone():
    (with_it, some), (without, none) = (
        ([p.grad for p in learner.backbone.parameters() if p.requires_grad], learner.strategies[0].matching)
        for learner in (fed(small(Stella, matching_weight=weight), 0) for weight in (1.0, 0.0))
    )
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))
    assert any(p.grad.any() for p in some.parameters()) and not any(p.grad.any() for p in none.parameters())


# ---- ablations -----------------------------------------------------------------------------------------------


def test_importance_alone_prunes_nothing(pruned):
    strategy = small(Stella, select_by="importance")
    fed(strategy, 0, 4, 8)
    assert len(pruned) == 2 * 2 and not any(map(torch.any, pruned))
    assert strategy.log()["audio_pruned"] == strategy.log()["video_pruned"] == 0
    assert strategy._scores["video_importance"].std() > 0
    assert strategy.log()["video_entropy"] < 1


def test_correlation_alone_draws_uniformly_from_what_is_left(pruned):
    strategy = small(Stella, select_by="correlation", audio_selection="unconstrained")
    learner = fed(strategy, 0, 4, 8, 12)
    assert sum(map(torch.sum, pruned)) > 20
    for side, without in (("audio", pruned[-2]), ("video", pruned[-1])):
        assert torch.equal(
            strategy._scores[f"{side}_importance"], torch.full_like(without[:4], 1 / 8, dtype=torch.float64)
        )
        assert not without.gather(1, getattr(learner.batch, f"{side}_at")[: len(without)]).any()
        assert strategy.log()[f"{side}_entropy"] == pytest.approx(1)


def test_correlation_alone_draws_uniformly_from_the_first_step_on():
    strategy, often, rounds = small(Stella, select_by="correlation"), torch.zeros(8), 240
    learner = fed(strategy)
    for _ in range(rounds // 4):
        strategy.prepare(enter(learner, four(0)))
        often += torch.bincount(learner.batch.video_at.flatten(), minlength=8)
    assert ((often / rounds - 0.5).abs() < 4 * (0.25 / rounds) ** 0.5).all()


def test_what_importance_alone_and_correlation_alone_are_not():
    """All three differ from each other, from the same start."""
    both, one, two = (
        weights(fed(small(Stella, select_by=scores), 0, 4, 8)) for scores in ("both", "importance", "correlation")
    )
    assert not any(torch.equal(*pair) for pair in ((both, one), (both, two), (one, two)))


# ---- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("official", [False, True])
def test_initial_weights_of_the_matching_module(official):
    trained = stella.Matching(dim=24, heads=4).state_dict()
    names = {"pooler.": "matching_score.pooler.dense.", "fc.": "matching_score.fc."} if official else {}
    initial = {"backbone.norm.weight": torch.zeros(1)}
    for key, value in trained.items():
        theirs = next((key.replace(*pair) for pair in names.items() if key.startswith(pair[0])), key)
        initial[f"matching.{theirs}"] = value
    matching = fed(small(Stella), initial=initial).strategies[0].matching.state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in matching.items())


def test_initial_weights_that_do_not_fit():
    initial = {f"matching.{key}": value for key, value in stella.Matching(dim=48).state_dict().items()}
    with pytest.raises(UserError, match=r"stella: initial weights: does not fit Matching: norm_a.weight is \(48,\)"):
        fed(small(Stella), initial=initial)


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"heads": 5}, ["heads: 5 does not divide the backbone's width 24; choose a divisor"]),
        ({"chunk": 3}, ["chunk: 3 does not divide the 4 patches of time; choose a divisor"]),
        (
            {"audio_selection": "frequency", "chunk": 4},
            ["chunk: 4 does not divide the 2 patches of frequency; choose a divisor"],
        ),
        ({"keep_video": 0.375}, ["keep_video: invalid value 0.375: keeps too few: mask_ratio: .* 3 of 8 video"]),
        ({"keep_audio": 0.01}, ["keep_audio: invalid value 0.01: keeps too few: .* audio"]),
        (
            {"heads": 7, "chunk": 5, "keep_audio": 0.1},
            ["heads: 7", "chunk: 5", "keep_audio: invalid value 0.1"],
        ),
    ],
)
@pytest.mark.parametrize("cls", [Stella, StellaPlus], ids=lambda cls: cls.name)
def test_settings_that_do_not_fit_the_backbone_are_all_named(cls, settings, lines):
    with pytest.raises(SettingsError) as caught:
        fed(small(cls, **settings))
    for found, expected in zip(caught.value.mistakes, lines, strict=True):
        assert "\n" not in found
        assert re.match(f"{cls.name}.{expected}", found)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"keep_video": 0}, "keep_video: invalid value 0: must be greater than 0"),
        ({"keep_audio": 1.5}, "keep_audio: invalid value 1.5: must be less than or equal to 1"),
        ({"temperature": 0}, "temperature: invalid value 0"),
        ({"cut": "head"}, "cut: invalid value 'head': must be 'neighbours' or 'tail'"),
        ({"audio_selection": "pitch"}, "audio_selection: invalid value 'pitch'"),
        ({"select_by": "neither"}, r"select_by: invalid value 'neither': .*'both', 'importance' or 'correlation'"),
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
    assert settings["select_by"] == "both"
    assert StellaPlus().settings() == settings
