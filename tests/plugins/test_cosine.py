"""STELLA scored by cosine similarity: hand-computed scores, what it leaves out, and a strategy's promises."""

import pytest
import torch
from helpers.toys import clips, fed, four, held, small, small_learner, step

from avcl.errors import SettingsError
from avcl.plugins.stella import Stella
from avcl.plugins.stella.cosine import centred, closeness
from avcl.plugins.stella.plus import StellaPlus
from avcl.testing import check_strategy


def test_tokens_lose_their_mean_and_their_length():
    audio = torch.tensor([[[3.0, 0.0], [1.0, 0.0]]])
    video = torch.tensor([[[0.0, 5.0], [4.0, 5.0], [2.0, 8.0], [2.0, 2.0]]])
    a, v = centred(audio, video)
    assert a.query[0, 0].tolist() == [[1.0, 0.0], [-1.0, 0.0]]
    assert v.key[0, 0].tolist() == [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]


def test_a_patch_is_worth_what_its_nearest_token_of_the_other_modality_is_like():
    """Cosines to the nearest: 1, 0, 0.6; so exp(2), 1, exp(1.2) at temperature 1/2."""
    query = torch.tensor([[1.0, 0.0], [0.0, -1.0]])[None, None]
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])[None, None]
    weights = torch.tensor([2.0, 0.0, 1.2]).exp()
    torch.testing.assert_close(closeness(query, key, 0.5), (weights / weights.sum())[None])


@pytest.mark.parametrize("make", [Stella, StellaPlus])
def test_it_keeps_every_promise(make):
    check_strategy(lambda: small(make, scorer="cosine"))


def test_neither_module_nor_loss_nor_fusion_of_whole_clips():
    strategy = small(Stella, scorer="cosine", heads=5)  # which does not matter then
    learner = fed(strategy, 0, 4, dtype=torch.float32)
    assert list(learner.modules()) == [] and "matching" not in learner.losses
    assert learner.batch.video.shape[1] == 4 and len(learner.batch) == 8


def test_scores_are_those_of_the_encoders_tokens_and_selection_shows_them():
    strategy = small(Stella, scorer="cosine")
    learner = small_learner(strategy, torch.float64)
    with torch.no_grad():
        audio, video = centred(*learner.backbone.encode(four(0)))
    step(learner, four(0))
    expected = closeness(audio.query, video.key, strategy.temperature)
    torch.testing.assert_close(held(strategy).extra["video_importance"], expected)
    learner = small_learner(small(Stella, scorer="cosine"), torch.float64)
    chosen = learner.strategies[0].selection(learner.backbone, four(0), torch.Generator())
    torch.testing.assert_close(chosen.video.importance, expected)
    torch.testing.assert_close(chosen.audio.importance, closeness(video.query, audio.key, strategy.temperature))


def test_all_blocks_are_the_encoder_but_for_what_comes_before_fusion():
    """With no table to add before the fusion blocks the first of all blocks are all of the encoder."""
    backbone = small_learner(small(Stella)).backbone
    for stream in (backbone.audio, backbone.video):
        stream.fusion_table = None
    clip = clips(range(2), dtype=torch.float32)
    assert all(map(torch.equal, backbone.encode(clip), backbone.encode_first(clip, 1)))


def test_correlation_is_higher_for_what_is_like_the_past():
    """The past clip's pooled query is a patch's own token: of all patches it is the most correlated."""
    strategy = small(Stella, scorer="cosine", keep_video=1.0, keep_audio=1.0)
    learner = small_learner(strategy, torch.float64)
    audio, video = strategy.unfused(learner.backbone, four(0))
    scores = strategy.scores(audio, video, None)
    extra = {"audio_query": video.key[:, :, 5], "video_query": audio.key[:, :, 3]}
    past = type("Stored", (), {"extra": extra, "__len__": lambda self: 4})()
    found = strategy.scores(audio, video, past)
    now = (video.key * scores["audio_query"][:, :, None]).sum(-1).squeeze(1)
    then = (video.key * extra["audio_query"][:, :, None]).sum(-1).squeeze(1)
    torch.testing.assert_close(found["video_correlation"], (then - now).sigmoid())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scorer_blocks": 1}, "scorer_blocks: invalid value 1: must be null for the scorer matching"),
        ({"scorer": "kosinus"}, "scorer: invalid value 'kosinus': must be 'matching' or 'cosine'"),
    ],
)
def test_settings_that_cannot_be(settings, told):
    with pytest.raises(SettingsError) as caught:
        small(Stella, **settings)
    assert str(caught.value) == told


def test_more_blocks_than_there_are():
    with pytest.raises(SettingsError) as caught:
        small_learner(small(Stella, scorer="cosine", scorer_blocks=2))
    told = "stella.scorer_blocks: invalid value 2: the backbone has 1 blocks of each modality"
    assert str(caught.value) == told
