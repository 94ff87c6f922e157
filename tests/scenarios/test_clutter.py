"""The stream that asks for matching: saliency is blind to it, every strength does what it says, nothing else moves."""

import copy

import numpy as np
import pytest
import torch

from avcl.backbones.cavmae import CavMae
from avcl.backbones.weights import load_weights
from avcl.config.bundled import bundled_files
from avcl.config.files import read_config
from avcl.metrics.baselines import Baseline
from avcl.metrics.selection import selection_scores
from avcl.scenario import augmenting
from avcl.scenarios import _render as render
from avcl.scenarios.synthetic import Synthetic

STUDY = read_config(bundled_files()["study"])
SCENARIO = {key: value for key, value in STUDY["scenario"].items() if key != "name"}


@pytest.fixture(scope="module")
def study():
    return Synthetic(**SCENARIO)


@pytest.fixture(scope="module")
def backbone(study):
    own = {key: value for key, value in STUDY["backbone"].items() if key != "name"}
    torch.manual_seed(0)
    return CavMae(**own, **study.shape._asdict())


def test_the_grid_is_fine_enough(study, backbone):
    grid = backbone.grid
    assert (grid.video, grid.audio, grid.times) == (128, 128, 16)
    masks = [study.clips(0, "eval").truth(i).mask for i in range(32)]
    assert np.mean([mask.sum() for mask in masks]) / backbone.patch**2 > 12


@pytest.mark.parametrize("score", ["energy", "centre", "random", "echo"])
def test_neither_saliency_nor_an_untrained_backbone_finds_the_source(study, backbone, score):
    rows = [selection_scores(Baseline(score=score), backbone, study.clips(task, "eval"), clips=32) for task in range(4)]
    for kind in ("video", "audio"):
        found = [row[f"{kind}/auc"] for row in rows]
        assert 0.4 < np.mean(found) < 0.6
        assert 0.3 < min(found) <= max(found) < 0.7


def test_after_pretraining_tokens_of_one_modality_find_the_source_by_those_of_the_other(study, backbone):
    """More so by those of the same clip: it matches, beside knowing what objects look like."""
    trained = copy.deepcopy(backbone)
    load_weights(study.bundled_weights).fill(trained)
    own, other = (
        [selection_scores(Baseline(score=score), trained, study.clips(task, "eval"), clips=16) for task in range(4)]
        for score in ("echo", "swapped-echo")
    )
    for kind, least in (("video", 0.75), ("audio", 0.57)):
        found, swapped = (np.mean([row[f"{kind}/auc"] for row in rows]) for rows in (own, other))
        assert found > least and found > swapped + 0.02


def test_weights_are_those_of_the_texture(study):
    names = [stream.bundled_weights.name for stream in (Synthetic(), study)]
    assert names == ["synthetic.safetensors", "synthetic_textured.safetensors"]


def test_an_oracle_finds_every_pair(study):
    """Who knows the laws knows the sound of every object, and hears it in the clip whatever else sounds."""
    parts = [study.clips(task, "eval") for task in range(4)]
    drawn = [(study.kinds[part.labels[i % 4]], *part.draw(i)) for part in parts for i in range(len(part))]
    spectra = torch.stack([torch.from_numpy(mel) for _, _, mel, _ in drawn])
    truths = torch.stack([truth.level for *_, truth in drawn]).flatten(1)
    sizes, pairs = render.Sizes(study.object, study.sound, study.edges), torch.arange(len(drawn))
    levels, likeness = [], []
    for kind, _, _, truth in drawn:
        sound = render.sound_of(truth.sight, kind, sizes)
        when = slice(*render.interval(sound, study.shape))
        levels.append(torch.from_numpy(render.heard(sound, kind, study.shape)))
        expected, heard = levels[-1][when].flatten(), spectra[:, when].flatten(1)
        likeness.append(torch.nn.functional.cosine_similarity(heard - heard.mean(1, True), expected - expected.mean()))
    assert torch.equal(torch.cdist(torch.stack(levels).flatten(1), truths).argmin(1), pairs)
    likeness = torch.stack(likeness)
    for matrix in (likeness, likeness.T):
        rank = (matrix > matrix.diag()[:, None]).sum(1)
        assert (rank == 0).float().mean() > 0.95 and rank.max() < 10


# ---- what is not asked for moves nothing -----------------------------------------------------------------------


def test_the_default_stream_is_the_one_of_the_committed_results():
    """Recorded before there was any clutter; two clips, sampled all over, and the scale of all."""
    stream = Synthetic()
    assert stream.scale["frames"] == pytest.approx((0.45152178406715393, 0.15939882397651672), abs=1e-6)
    assert stream.scale["mel"] == pytest.approx((0.034193310886621475, 0.31586724519729614), abs=1e-6)
    for task, split, i, pixels, levels in (
        (0, "train", 3, [0.541189, 0.763082, 0.445946, 0.526078, 0.313891, 0.398781, 0.181717],
         [0.065687, 0.172401, 0.129478, -0.000998, -0.003295, -0.618233]),
        (3, "eval", 17, [0.221372, 0.497407, 0.473634, 0.513205, 0.300042, 0.460624, 0.365424],
         [-0.127134, 0.058494, 0.109029, -0.214956, -0.132841, 0.127129]),
    ):  # fmt: skip
        frames, mel, _ = stream.clips(task, split).draw(i)
        assert frames.ravel()[::4001].tolist() == pytest.approx(pixels, abs=2e-6)
        assert mel.ravel()[::2731].tolist() == pytest.approx(levels, abs=2e-6)


def drawn(i=1, task=1, **settings):
    """Frames, log-mel and truth of a clip without noise."""
    return Synthetic(**{"noise": 0.0, **settings}).clips(task, "eval").draw(i)


@pytest.mark.parametrize(
    ("strength", "seen", "heard"),
    [({"texture": 1.0}, True, False), ({"unseen": 2}, False, True), ({"floor": 0.5}, False, True)],
)
def test_a_strength_changes_its_own_modality_and_never_the_source(strength, seen, heard):
    for i in range(4):
        (frames, mel, truth), (other_frames, other_mel, other) = drawn(i), drawn(i, **strength)
        assert (truth.sight, truth.interval) == (other.sight, other.interval) and torch.equal(truth.level, other.level)
        assert torch.equal(truth.mask, other.mask)
        assert (bool((frames != other_frames).any()), bool((mel != other_mel).any())) == (seen, heard)
        inside = truth.mask.numpy()[:, None].repeat(3, 1)
        assert (frames[inside] == other_frames[inside]).all()
        assert (other_mel >= mel).all()


def test_the_strengths_are_independent_of_one_another():
    """Each has draws of its own: what all together add is the sum of what they add alone."""
    settings = {"unseen": 2, "floor": 0.5}
    none, both = drawn()[1], drawn(**settings)[1]
    alone = [drawn(**{key: value})[1] - none for key, value in settings.items()]
    assert both - none == pytest.approx(sum(alone), abs=1e-6)
    assert (drawn(texture=1.0, **settings)[0] == drawn(texture=1.0)[0]).all()


def test_texture_and_floor_are_as_strong_as_told():
    plain = drawn(distractors=0)
    for key, place in (("texture", 0), ("floor", 1)):
        half, whole = (drawn(distractors=0, **{key: share})[place] - plain[place] for share in (0.5, 1.0))
        assert half == pytest.approx(whole / 2, abs=1e-6) and abs(whole).max() > 0.3


@pytest.mark.parametrize("tint", [0.0, 0.5, 1.0])
def test_textured_background_varies_as_the_objects_do(tint):
    """In every task, though objects do not vary as much in every task, and whatever the colour."""
    for task in range(4):
        inside, outside = [], []
        for i in range(24):
            frames, _, truth = drawn(i, task, texture=1.0, tint=tint, distractors=0)
            pixels, mask = frames.transpose(1, 0, 2, 3), truth.mask.numpy()
            inside.append(pixels[:, mask].std())
            outside.append(pixels[:, ~mask].std())
        assert np.mean(inside) == pytest.approx(np.mean(outside), rel=0.15)


def test_tint_gives_the_texture_colour():
    def colour(tint):
        frames, _, truth = drawn(texture=1.0, tint=tint, distractors=0)
        return np.ptp(frames, axis=1)[~truth.mask.numpy()].mean()

    assert colour(0.0) < 1e-6 < colour(0.3) < colour(1.0)


def test_unseen_sounds_are_in_the_pauses_of_the_source_and_as_loud():
    shares, ratios = [], []
    for i in range(16):
        (_, alone, truth), (_, mel, _) = drawn(i), drawn(i, unseen=3, similar=1.0)
        start, stop = truth.interval
        silent = np.ones(len(mel), dtype=bool)
        silent[max(0, start - 1) : stop + 1] = False  # an interval is rounded to whole frames
        assert (mel[start + 1 : stop - 1] == alone[start + 1 : stop - 1]).all()
        heard = mel[silent].mean(1) > 0
        shares.append(heard.mean())
        ratios.append(mel[silent][heard].mean() / mel[start:stop].mean())
    assert np.mean(shares) > 0.7
    assert np.mean(ratios) == pytest.approx(1, abs=0.15)


def test_similar_distractors_are_of_the_same_task(monkeypatch):
    seen = []
    monkeypatch.setattr(render, "paint", lambda frames, where, kind, hue, vivid: seen.append(kind))
    monkeypatch.setattr(
        render, "heard", lambda sound, kind, shape: seen.append(kind) or np.zeros((256, 64), np.float32)
    )

    def kin(similar):
        stream, of_task = Synthetic(similar=similar, unseen=2), 0
        seen.clear()
        for i in range(16):
            stream.clips(2, "eval").draw(i)
        of_task = [kind in stream.kinds[8:12] for kind in seen]
        return np.mean(of_task)

    # a third of what is painted and heard is the source itself; by chance 3 of 15 others are of its task
    assert kin(1.0) == 1 and kin(0.0) < kin(0.5) < 0.9


def test_a_source_that_seeks_the_edges_is_nowhere_likelier():
    def middle(edges):
        stream = Synthetic(object=0.45, edges=edges)
        truths = [stream.clips(0, "eval").truth(i) for i in range(128)]
        mask = torch.stack([truth.mask for truth in truths]).float().mean((0, 1))
        time = torch.zeros(256)
        for truth in truths:
            time[slice(*truth.interval)] += 1
        return float(mask[16:48, 16:48].mean() / mask.mean()), float(time[64:192].mean() / time.mean())

    (video, audio), (video_within, audio_within) = middle(1.0), middle(0.0)
    assert video_within > 1.5 > 1.2 > video > 0.8
    assert audio_within > 1.25 > 1.15 > audio > 0.85


def test_one_class_and_one_task_have_something_to_be_distracted_by():
    stream = Synthetic(tasks=1, classes=1, similar=1.0, unseen=4, texture=1.0)
    assert all(torch.isfinite(value).all() for value in (stream.clips(0, "train")[0][key] for key in ("frames", "mel")))


# ---- tuning and reporting ----------------------------------------------------------------------------------------


def looks(stream, seed=None, split="eval", epochs=(0,)):
    """What the clips of all tasks look like, in training with a seed and of all epochs."""
    found = []
    for epoch in epochs:
        for task in range(stream.tasks):
            clips = stream.clips(task, split)
            for i in range(0, len(clips), 7):
                if seed is None:
                    found.append(clips.truth(i).sight)
                else:
                    with augmenting(seed, epoch):
                        found.append(clips.truth(i).sight)
    return found


def test_tuning_and_reporting_have_no_clip_in_common():
    small = {"train_clips": 16, "eval_clips": 16, "height": 16, "width": 16, "times": 32, "mels": 16}
    small |= {"object": 0.5}
    report, tune = (Synthetic(**small, purpose=purpose) for purpose in ("reporting", "tuning"))
    assert report.scale == tune.scale and report.kinds == tune.kinds
    assert looks(Synthetic(**small)) == looks(report), "the default is what results are reported on"
    ours = looks(report) + looks(report, 0, "train", (0, 1)) + looks(report, split="train")
    theirs = looks(tune) + looks(tune, 0, "train", (0, 1)) + looks(tune, split="train")
    assert len(set(theirs)) == len(theirs) and not set(ours) & set(theirs)
    numbers = [{stream.clips(3, split)[0]["index"] for split in ("train", "eval")} for stream in (report, tune)]
    assert not numbers[0] & numbers[1]
    assert report.pretraining_clips().truth(3).sight != tune.pretraining_clips().truth(3).sight


def test_a_textured_clip_is_the_same_whenever_it_is_drawn(study):
    clips, again = study.clips(2, "train"), Synthetic(**SCENARIO).clips(2, "train")
    with augmenting(seed=4, epoch=2):
        first = clips[9]
        assert all(torch.equal(first[key], again[9][key]) for key in ("frames", "mel"))
    assert not torch.equal(first["mel"], clips[9]["mel"])
    assert torch.equal(clips[9]["mel"], again[9]["mel"])
