"""Selection against the truth: every score by hand, chance for the blind, and training that never notices."""

import json

import pytest
import torch
from helpers.toys import NoiseWithTruth, small, small_learner, train, weights
from sklearn.metrics import roc_auc_score

from avcl.backbones.cavmae import CavMae
from avcl.clip import Grid
from avcl.compat import quiet_evaluator
from avcl.metrics.baselines import Baseline, echo
from avcl.metrics.selection import (
    SelectionScores,
    auc,
    audio_source,
    entropy,
    fixed_clips,
    recall,
    selection_scores,
    video_source,
)
from avcl.plugins.derpp import DERpp
from avcl.plugins.mats import MATS
from avcl.plugins.random_patches import RandomPatches
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus
from avcl.scenarios.synthetic import Synthetic
from avcl.selection import Choice, Selection
from avcl.testing import check_metric
from avcl.testing.toys import Noise, small_backbone
from avcl.training.view import begun

SOURCE = torch.tensor([[True, False, True, False]])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([4.0, 2, 3, 1], 1.0),
        ([1.0, 3, 2, 4], 0.0),
        ([3.0, 2, 1, 0], 0.75),  # of four pairs one is the wrong way round
        ([1.0, 1, 1, 1], 0.5),
        ([2.0, 2, 1, 0], 0.625),  # a tie counts one half: (0.5 + 1 + 0 + 1) / 4
    ],
)
def test_auc_by_hand(scores, expected):
    assert auc(torch.tensor([scores]), SOURCE).tolist() == [expected]


def test_auc_of_many_clips_is_that_of_scikit_learn():
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (5, 40), generator=draw).float()
    source = torch.rand(5, 40, generator=draw) < 0.3
    expected = [roc_auc_score(one, score) for one, score in zip(source, scores, strict=True)]
    assert auc(scores, source).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("all_or_none", [torch.zeros, torch.ones])
def test_without_two_sides_there_is_no_auc(all_or_none):
    assert auc(torch.rand(1, 4), all_or_none(1, 4).bool()).isnan().all()


@pytest.mark.parametrize(
    ("scores", "keep", "expected"),
    [
        ([4.0, 2, 3, 1], 2, 1.0),
        ([4.0, 3, 2, 1], 2, 0.5),
        ([4.0, 3, 2, 1], 4, 1.0),
        ([1.0, 1, 1, 1], 1, 0.25),
        ([2.0, 1, 1, 0], 2, 0.75),  # the second place is tossed for by two
    ],
)
def test_recall_by_hand(scores, keep, expected):
    assert recall(torch.tensor([scores]), SOURCE, keep).tolist() == [expected]


def test_entropy_by_hand():
    importance = torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0], [3, 3, 0, 0]])
    assert entropy(importance).tolist() == pytest.approx([1, 0, 0.5])


def test_the_source_in_patches_by_hand():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :2, :3] = True  # the upper left patch, and half of the upper right one
    mask[1, 3, 3] = True
    assert video_source(mask, patch=2).tolist() == [1, 0.5, 0, 0, 0, 0, 0, 0.25]
    assert audio_source((3, 6), Grid(1, 1, 1, 4, 2), patch=2).tolist() == [0, 0, 0.5, 0.5, 1, 1, 0, 0]


class Given:
    """Keeps and prunes what a test says, by scores that it says, the same for every clip."""

    def __init__(self, importance, kept, pruned=None):
        self.importance, self.kept, self.pruned = importance, kept, pruned

    def selection(self, backbone, clip, generator):
        def rows(values):
            return torch.tensor([values] * len(clip))

        pruned = None if self.pruned is None else rows(self.pruned)
        video = Choice(rows(self.importance), rows(self.kept), pruned=pruned)
        return Selection(video=video, audio=Choice.blind(rows(list(range(8))), 8))


def test_scores_of_a_choice_by_hand():
    """The source is patch 0 of each frame of four: patches 0 and 4; its sound is the second half of four times."""
    importance, kept, pruned = [8.0, 7, 6, 5, 4, 3, 2, 1], [0, 1, 2, 3], [False] * 6 + [True] * 2
    dataset = NoiseWithTruth().clips(0, "eval")
    found = selection_scores(Given(importance, kept, pruned), small_backbone(mask_ratio=0.7), dataset, clips=5)
    assert found["video/auc"] == pytest.approx((6 + 3) / 12)
    assert (found["video/recall"], found["video/recall_chance"]) == (0.5, 0.5)
    assert (found["video/source_kept"], found["video/source_pruned"], found["video/source_all"]) == (0.25, 0, 0.25)
    assert 0 <= found["video/source_visible"] <= 1
    assert (found["audio/auc"], found["audio/recall"], found["audio/recall_chance"]) == (0.5, 1, 1)
    assert (found["audio/source_kept"], found["audio/entropy"]) == (0.5, pytest.approx(1))
    assert "audio/source_pruned" not in found


def test_nothing_pruned_has_no_share():
    never = Given([1.0] * 8, [0, 1, 2, 3], [False] * 8)
    dataset = NoiseWithTruth().clips(0, "eval")
    assert selection_scores(never, small_backbone(), dataset)["video/source_pruned"] is None


def test_without_truth_or_selection_there_is_nothing():
    blind = RandomPatches()
    assert selection_scores(blind, small_backbone(), Noise().clips(0, "eval")) == {}
    assert selection_scores(DERpp(), small_backbone(), NoiseWithTruth().clips(0, "eval")) == {}


def test_on_the_rendered_stream_energy_finds_the_source_and_chance_does_not():
    scenario = Synthetic()
    backbone, dataset = CavMae(size="tiny", **scenario.shape._asdict()), scenario.clips(0, "eval")
    scores = {
        name: selection_scores(Baseline(score=name), backbone, dataset, clips=64)
        for name in ("random", "centre", "energy")
    }
    assert scores["random"]["video/auc"] == pytest.approx(0.5, abs=0.1)
    assert scores["random"]["audio/auc"] == pytest.approx(0.5, abs=0.1)
    assert scores["energy"]["video/auc"] > 0.9 < scores["energy"]["audio/auc"]
    assert scores["energy"]["video/source_kept"] > 1.5 * scores["energy"]["video/source_all"]
    assert 0.5 < scores["centre"]["video/auc"] < scores["energy"]["video/auc"]


def test_the_oracle_is_the_best_that_there_can_be():
    """Two of eight video patches are the source, and four of eight of audio: all of them are among the kept half."""
    found = selection_scores(None, small_backbone(), NoiseWithTruth().clips(0, "eval"))
    for kind, share in (("video", 0.25), ("audio", 0.5)):
        assert (found[f"{kind}/auc"], found[f"{kind}/recall"]) == (1, 1)
        assert (found[f"{kind}/source_kept"], found[f"{kind}/source_all"]) == (2 * share, share)


class Encodes:
    """A backbone that encodes every clip into given tokens."""

    def __init__(self, audio, video):
        self.tokens = torch.tensor(audio), torch.tensor(video)

    def encode(self, clip):
        return self.tokens


def test_echo_by_hand():
    """Of two clips: the first one's second video token is like its first audio token, the second's are all alike."""
    audio = [[[2.0, 0], [0, 1]], [[0, 3], [0, 1]]]
    video = [[[0.0, -1], [5, 0]], [[0, 1], [0, 1]]]
    # unit length, less the mean (1/4, 3/4) of audio and (1/4, 1/4) of video
    own = echo(Encodes(audio, video), None)
    first = {"v0a0": -0.25 * 0.75 + 1.25 * 0.75, "v0a1": 0.25 * 0.25 - 1.25 * 0.25}
    first |= {"v1a0": 0.75 * 0.75 + 0.25 * 0.75, "v1a1": -0.75 * 0.25 - 0.25 * 0.25}
    of_video = [max(first["v0a0"], first["v0a1"]), max(first["v1a0"], first["v1a1"])]
    of_audio = [max(first["v0a0"], first["v1a0"]), max(first["v0a1"], first["v1a1"])]
    for found, values in zip(own, (of_video, of_audio), strict=True):
        assert found[0].tolist() == pytest.approx([value - min(values) for value in values])
        assert found[1].tolist() == [0, 0]
    turned = echo(Encodes([audio[1], audio[0]], video), None)
    swapped = echo(Encodes(audio, video), None, swapped=True)
    assert torch.equal(swapped[0], turned[0]) and torch.equal(swapped[1].flip(0), turned[1])


def test_the_fixed_clips_are_always_the_same():
    assert fixed_clips(range(100), 5) == fixed_clips(range(100), 5) == sorted(set(fixed_clips(range(100), 5)))
    assert fixed_clips(range(3), 5) == [0, 1, 2]


# ---- the strategies' own selection -----------------------------------------------------------------------------

SELECTIVE = pytest.mark.parametrize("cls", [RandomPatches, MATS, Stella, StellaPlus], ids=lambda cls: cls.name)


def trained(cls, metrics=(), eval_batch_size=16, **settings):
    """A learner after two tasks with an evaluation behind each."""
    learner = small_learner(
        small(cls, **settings), evaluator=quiet_evaluator(*metrics), eval_batch_size=eval_batch_size
    )
    streams = NoiseWithTruth().benchmark()
    for experience in streams.train_stream:
        learner.train(experience)
        learner.eval(streams.eval_stream)
    return learner


@SELECTIVE
def test_scores_and_choice_of_every_selecting_strategy(cls):
    learner, scenario = trained(cls), NoiseWithTruth()
    found = selection_scores(learner.strategies[0], learner.backbone, scenario.clips(0, "eval"))
    kept = {"video/source_all": 0.25, "audio/source_all": 0.5, "video/recall_chance": 0.5}
    assert {key: found[key] for key in kept} == kept
    assert 0 <= min(v for v in found.values() if v is not None) <= max(v for v in found.values() if v is not None) <= 1
    assert ("video/source_pruned" in found) == issubclass(cls, Stella)
    if cls is RandomPatches:
        assert (found["video/auc"], found["audio/auc"], found["video/entropy"]) == (0.5, 0.5, pytest.approx(1))


@SELECTIVE
def test_training_never_notices_that_it_is_measured(cls):
    plain, measured = trained(cls), trained(cls, [SelectionScores(NoiseWithTruth())])
    assert torch.equal(weights(plain.backbone), weights(measured.backbone))
    for name, generator in plain.generators.items():
        assert torch.equal(generator.get_state(), measured.generators[name].get_state())
    assert plain.strategies[0].log() == measured.strategies[0].log()


def test_stella_selects_as_in_training():
    """What it says of clips, with the past and the seed of a step, is what that step trained on."""
    strategy = small(Stella)
    learner = small_learner(strategy)
    train(learner, NoiseWithTruth())
    batch, current = learner.batch, learner.num_current
    scores = strategy._scores
    chosen = strategy.pick(scores, learner.current.index, 4, 4, strategy._seed)
    assert torch.equal(chosen.video.kept, batch.video_at[:current])
    assert torch.equal(chosen.audio.kept, batch.audio_at[:current])


def test_the_weights_of_a_run_are_scored_without_it():
    """Where nothing is pruned, importance is a function of backbone and matching module alone."""
    learner, dataset = trained(Stella, select_by="importance", dtype="float32"), NoiseWithTruth().clips(1, "eval")
    strategy, before = learner.strategies[0], torch.get_rng_state()
    initial = {f"stella.matching.{key}": value for key, value in strategy.matching.state_dict().items()}
    alone = begun(small(Stella, select_by="importance"), learner.backbone, initial)
    assert torch.equal(torch.get_rng_state(), before)
    ours, theirs = (selection_scores(part, learner.backbone, dataset) for part in (alone, strategy))
    same = [f"{kind}/{name}" for kind in ("video", "audio") for name in ("auc", "recall", "entropy", "source_all")]
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    other = begun(small(Stella, select_by="importance"), learner.backbone)
    assert selection_scores(other, learner.backbone, dataset)["video/entropy"] != ours["video/entropy"]


def test_the_metric_keeps_every_promise():
    check_metric(lambda: SelectionScores(NoiseWithTruth(), clips=5), strategy=lambda: small(Stella, dtype="float32"))


def test_the_metric_has_a_matrix_of_every_score_whatever_the_batch():
    metrics = [SelectionScores(NoiseWithTruth()) for _ in range(2)]
    for metric, size in zip(metrics, (3, 48), strict=True):
        trained(Stella, [metric], eval_batch_size=size)
    assert json.dumps(metrics[0].results()) == json.dumps(metrics[1].results())
    score = metrics[0].results()["scores"]["video/auc"]
    assert score["chance"] == 0.5
    assert [len(row) for row in score["matrix"]] == [2, 2]
    assert score["average"] == pytest.approx([score["matrix"][0][0], sum(score["matrix"][1]) / 2])
    assert metrics[0].result()["video/auc"] == score["average"][-1]


def test_a_method_that_takes_all_patches_has_no_scores():
    metric = SelectionScores(NoiseWithTruth())
    trained(DERpp, [metric])
    assert metric.results() == {}
