"""The synthetic stream keeps its promises: the same clip twice, a truth that is true, settings that act."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avcl.backbones.cavmae import CavMae
from avcl.clip import Clip
from avcl.errors import SettingsError
from avcl.scenario import augmenting
from avcl.scenarios import _render as render
from avcl.scenarios.synthetic import Synthetic


# beside the promises of every scenario, which tests/testing/test_scenario.py checks
@pytest.fixture(scope="module")
def stream():
    return Synthetic()


@pytest.fixture(scope="module")
def gallery(stream):
    """Every evaluation clip of every task with its truth."""
    sets = [stream.clips(task, "eval") for task in range(stream.tasks)]
    return [(clips[i], clips.truth(i)) for clips in sets for i in range(len(clips))]


def test_labels_count_through_the_tasks_and_clips_to_the_end(stream):
    assert stream.clips(1, "train")[6]["label"] == 1 * stream.classes + 6 % stream.classes
    with pytest.raises(IndexError, match="clip 128 of 128"):
        stream.clips(0, "eval")[128]


def test_pretraining_is_of_other_classes_and_can_be_left_out(stream):
    clips = stream.pretraining_clips()
    labels = {clips[i]["label"] for i in range(64)}
    assert min(labels) == stream.tasks * stream.classes and clips[0]["task"] == -1
    assert not set(stream.kinds[: min(labels)]) & {stream.kinds[label] for label in labels}
    assert Synthetic(pretraining=0).pretraining_clips() is None


def test_frames_and_mel_have_zero_mean_and_unit_deviation(gallery):
    for key in ("frames", "mel"):
        values = torch.stack([item[key] for item, _ in gallery[::8]])
        assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1


def test_a_clip_is_a_function_of_seed_split_class_and_number(stream):
    """And of nothing else, whatever the process and machine: recorded once."""
    recorded = Synthetic(seed=3).clips(2, "eval").truth(5)
    assert recorded.sight == pytest.approx((0.853404, 0.892881, 0.250856, 0.849456, 0.485664), abs=1e-6)
    assert recorded.interval == (39, 140)
    clips = stream.clips(0, "eval")
    others = [clips[7], stream.clips(0, "train")[3], Synthetic(seed=1).clips(0, "eval")[3]]
    assert not any(torch.equal(clips[3]["mel"], other["mel"]) for other in others)


def test_training_sees_fresh_instances_each_epoch_and_the_same_ones_when_told_so(stream):
    def epochs(stream, split):
        clips = stream.clips(0, split)
        seen = []
        for epoch in (0, 1, 0):
            with augmenting(seed=0, epoch=epoch):
                assert clips.truth(2).sight == clips.truth(2).sight
                seen.append(clips[2]["frames"])
        return [torch.equal(seen[0], seen[1]), torch.equal(seen[0], seen[2])]

    assert epochs(stream, "train") == [False, True]
    assert epochs(Synthetic(fresh=False), "train") == [True, True]


def test_its_scale_does_not_depend_on_who_asks_first_and_when(stream):
    with augmenting(seed=5, epoch=3):
        asked_in_training = Synthetic()
        first = asked_in_training.clips(1, "train")[7]
    assert asked_in_training.scale == stream.scale
    with augmenting(seed=5, epoch=3):
        assert torch.equal(stream.clips(1, "train")[7]["mel"], first["mel"])


def test_an_oracle_finds_every_pair_and_the_class_alone_does_not(stream, gallery):
    clips = gallery
    mean, deviation = stream.scale["mel"]
    spectra = torch.stack([item["mel"].flatten() * deviation + mean for item, _ in clips])
    expected = []
    for item, truth in clips:
        kind = stream.kinds[item["label"]]
        sizes = render.Sizes(stream.object, stream.sound)
        expected.append(torch.from_numpy(render.heard(render.sound_of(truth.sight, kind, sizes), kind, stream.shape)))
    levels = torch.stack(expected).flatten(1)
    pairs = torch.arange(len(clips))
    assert (torch.cdist(spectra, levels).argmin(1) == pairs).all(), "each sound is heard to be that of its object"
    truths = torch.stack([truth.level for _, truth in clips]).flatten(1)
    apart = torch.cdist(levels, truths)
    assert (apart.argmin(1) == pairs).all() and (apart + 1e6 * torch.eye(len(clips))).min() > 1

    labels = torch.tensor([item["label"] for item, _ in clips])
    same = (labels[:, None] == labels).float()
    guess = torch.cdist(same @ levels / same.sum(1, keepdim=True), spectra) + 1e6 * (1 - same)
    hits = (guess.argmin(1) == pairs).float().mean()
    assert hits < 3 / stream.eval_clips, "who knows the class and its mean sound is near chance within it"


def test_no_factor_depends_on_the_class(stream, gallery):
    clips = gallery
    sights = np.array([truth.sight for _, truth in clips])
    labels = np.array([item["label"] for item, _ in clips])
    means = np.stack([sights[labels == label].mean(0) for label in np.unique(labels)])
    # the mean of n uniform numbers deviates by sqrt(1/12n)
    assert (abs(means - 0.5) < 4.5 * np.sqrt(1 / 12 / stream.eval_clips)).all()


def test_the_mask_is_where_the_sounding_object_is():
    quiet = {"noise": 0.0, "distractors": 0}
    clips = Synthetic(**quiet).clips(0, "eval")
    frames, _, truth = clips.draw(1)
    kind = Synthetic(**quiet).kinds[1]
    generator = np.random.default_rng((0, 1, 1, 0))
    render.look(generator)
    empty = render.background(generator, Synthetic().shape)
    changed = torch.from_numpy((frames != empty).any(1))
    assert not (changed & ~truth.mask).any()
    assert (changed & truth.mask).sum() > 0.99 * truth.mask.sum() > 0
    assert kind.angle == 1 / 4 and truth.mask.shape == (2, 64, 64)


def test_the_interval_is_when_it_sounds(stream):
    clips = stream.clips(3, "eval")
    for i in range(8):
        _, mel, truth = clips.draw(i)
        start, stop = truth.interval
        inside = np.zeros(256, dtype=bool)
        inside[start:stop] = True
        level = truth.level.numpy()
        assert (level[inside].max(1) > 0).all() and (level[~inside] == 0).all()
        # the mean of n numbers of noise deviates by noise / sqrt(n)
        deviation = stream.noise / np.sqrt(64 * inside.sum())
        assert mel[inside].mean() > 5 * deviation
        assert abs(mel[~inside].mean()) < 4 * stream.noise / np.sqrt(64 * (~inside).sum())


def test_sparser_sources_fill_less():
    def mean(of, **source):
        return np.mean([of(clips.truth(i)) for clips in [Synthetic(**source).clips(0, "eval")] for i in range(32)])

    for value, area in ((0.15, 0.6), (0.4, 0.3)):
        share = mean(lambda truth: truth.mask.float().mean().item(), object=value)
        assert share == pytest.approx(np.pi / 4 * value**2, rel=area)
        share = mean(lambda truth: (truth.interval[1] - truth.interval[0]) / 256, sound=value)
        assert share == pytest.approx(value, rel=0.2)


def test_distractors_are_seen_and_not_heard():
    none, many = (Synthetic(distractors=n, noise=0.0).clips(0, "eval") for n in (0, 3))
    for i in range(4):
        alone, crowd = none.draw(i), many.draw(i)
        assert crowd[2].sight == alone[2].sight and (crowd[1] == alone[1]).all()
        inside = crowd[2].mask.numpy()[:, None].repeat(3, 1)
        assert (crowd[0][inside] == alone[0][inside]).all()


def test_disguise_gives_silent_objects_colour():
    def colour(disguise):
        frames, _, truth = Synthetic(noise=0.0, disguise=disguise, distractors=4).clips(0, "eval").draw(0)
        return np.ptp(frames, axis=1)[~truth.mask.numpy()].max()

    assert colour(0.0) < colour(0.5) < colour(1.0)


def test_noise_is_as_strong_as_told():
    clips = Synthetic(noise=0.3).clips(0, "eval")
    _, mel, truth = clips.draw(0)
    assert (mel - truth.level.numpy()).std() == pytest.approx(0.3, rel=0.02)
    assert Synthetic(noise=0.0).clips(0, "eval").draw(0)[1].min() == 0


def test_overwriting_gives_each_task_its_own_law():
    def pitches(strength):
        stream = Synthetic(overwriting=strength)
        sizes, sight = render.Sizes(0.4, 0.4), render.Sight(0.3, 0.5, 0.5, 0.5, 0.5)
        return [render.sound_of(sight, stream.kinds[4 * task], sizes).pitch for task in range(4)]

    assert pitches(0.0) == pytest.approx([0.3] * 4)
    assert pitches(1.0) == pytest.approx([0.425, 0.925, 0.675, 0.175])
    assert pitches(0.4) == pytest.approx([0.35, 0.15, 0.45, 0.25])
    assert {kind.law for kind in Synthetic(overwriting=1.0).kinds[16:]} == {0.0}


def test_tasks_share_carriers_and_differ_in_tone(stream):
    tasks = [stream.kinds[at : at + 4] for at in (0, 4, 8, 12)]
    assert len({frozenset(kind.angle for kind in kinds) for kinds in tasks}) == 1
    assert len({kind.angle for kind in tasks[0]}) == 4
    assert [len({kind.tone for kind in kinds}) for kinds in (*tasks, sum(tasks, ()))] == [1, 1, 1, 1, 4]


def test_an_untrained_backbone_is_at_chance(stream, gallery):
    clips = [item for item, _ in gallery]
    torch.manual_seed(0)
    backbone = CavMae(size="tiny", **stream.shape._asdict())
    with torch.no_grad():
        cut = Clip.cut(*(torch.stack([clip[key] for clip in clips]) for key in ("frames", "mel")), 16)
        audio, video = backbone.embed(cut)
    close = F.normalize(video, dim=1) @ F.normalize(audio, dim=1).T
    for matrix in (close, close.T):
        hits = ((matrix > matrix.diag()[:, None]).sum(1) < 10).float().sum()
        chance = 10 / len(clips)
        # five deviations of a binomial count
        assert abs(hits - len(clips) * chance) < 5 * np.sqrt(len(clips) * chance * (1 - chance))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"object": 0.0}, "object: invalid value 0.0: must be greater than 0"),
        ({"overwriting": 1.5}, "overwriting: invalid value 1.5: must be less than or equal to 1"),
        ({"tasks": 0}, "tasks: invalid value 0"),
        ({"noise": -1.0}, "noise: invalid value -1.0"),
        ({"object": 0.02}, "object: 0.02 of 64 pixels is 1.3 pixels: must be at least 4: 0.0625 or more"),
        ({"sound": 0.01}, "sound: 0.01 of 256 mel frames is 2.6 frames: must be at least 4: 0.0156 or more"),
    ],
)
def test_bad_settings_say_what_is_allowed(settings, text):
    with pytest.raises(SettingsError, match=text):
        Synthetic(**settings)


@pytest.mark.parametrize("shape", [(1, 16, 32, 64, 16), (4, 224, 224, 1024, 128)])
def test_any_shape_renders(shape):
    stream = Synthetic(**dict(zip(("frames", "height", "width", "times", "mels"), shape, strict=True)), object=0.5)
    item = stream.clips(0, "eval")[0]
    assert item["frames"].shape == (shape[0], 3, *shape[1:3]) and item["mel"].shape == (1, *shape[3:])
    assert torch.isfinite(item["frames"]).all() and torch.isfinite(item["mel"]).all()
