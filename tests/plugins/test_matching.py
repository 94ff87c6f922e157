"""The matching module against the authors' numbers and its definition."""

import pytest
import torch
from helpers.official import golden as recorded
from helpers.official import part
from helpers.toys import same

from avcl.plugins.stella.matching import Matching, partners, renamed
from avcl.plugins.stella.ops.selection import importance, leading, pooled_query


@pytest.fixture(scope="module")
def golden():
    return recorded("stella_steps")[0]


@pytest.fixture(scope="module")
def official(golden):
    """The authors' module: their weights, their pooling."""
    matching = Matching(dim=48, official_pooling=True).double()
    matching.load_state_dict(renamed(part(golden, "weights/avmatching_module.")))
    return matching.requires_grad_(False)


def test_queries_keys_and_logits_are_the_authors(golden, official):
    tokens = golden["step0/joint_a"], golden["step0/joint_v"]
    audio, video = official.split(*tokens)
    same(audio.query, golden["step0/a_q"])
    same(audio.key, golden["step0/a_k"])
    same(video.query, golden["step0/v_q"])
    same(video.key, golden["step0/v_k"])
    same(official(*tokens), golden["step0/avm_logits_positive"].squeeze(1))
    assert official.scale == 0.5  # (48 / 12) ** -0.5


def test_importance_ranks_and_pooled_queries_are_the_authors(golden, official):
    audio_query, audio_key, video_query, video_key = (golden[f"step0/{key}"] for key in ("a_q", "a_k", "v_q", "v_k"))
    video = importance(audio_query, video_key, official.scale, 0.4)
    audio = importance(video_query, audio_key, official.scale, 0.4)
    same(video, golden["step0/I_v"])
    same(audio, golden["step0/I_a"])
    assert torch.equal(leading(video, 18), golden["step0/ids_v"])
    assert torch.equal(leading(audio, 64), golden["step0/ids_a"])
    same(pooled_query(video_query, video, leading(video, 9)), golden["step0/pushed/video_query"])
    same(pooled_query(audio_query, audio, leading(audio, 32)), golden["step0/pushed/audio_query"])


def test_pooling_is_the_mean_over_tokens_head_by_head():
    torch.manual_seed(0)
    matching = Matching(dim=24, heads=3).double()
    tokens = torch.randn(2, 5, 24).double(), torch.randn(2, 7, 24).double()
    audio, video = matching.split(*tokens)
    expected = []
    for own, other in ((video, audio), (audio, video)):
        for head in range(3):
            attention = (own.query[:, head] @ other.key[:, head].mT / 8**0.5).softmax(-1)
            expected.append((attention @ other.value[:, head]).mean(1))
    same(matching.joint(*tokens), torch.cat(expected, 1))
    matching.official_pooling = True
    assert (matching.joint(*tokens) - torch.cat(expected, 1)).abs().max() > 1e-3


def test_it_has_the_published_size_and_initialisation():
    matching = Matching(dim=768)
    assert sum(p.numel() for p in matching.parameters()) == 5_904_385
    assert matching.to_v_q.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert matching.pooler.bias.abs().max() == 0
    assert matching.norm_a.eps == 1e-5


@pytest.mark.parametrize("clips", [1, 2, 3, 4, 5, 12])
def test_partners_keep_half_and_shuffle_the_rest_without_a_fixed_point(clips):
    generator = torch.Generator().manual_seed(clips)
    own = torch.arange(clips)
    for _ in range(200):
        partner = partners(clips, generator)
        assert torch.equal(partner.sort().values, own)
        assert (partner == own).sum() == (clips if clips < 3 else clips // 2)


def test_every_wrong_partner_is_as_likely():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([partners(6, generator) for _ in range(6000)])
    share = torch.zeros(6, 6).scatter_add(1, draws.T, torch.ones(6, 6000)) / 6000
    p = torch.full((6, 6), 0.1).fill_diagonal_(0.5)
    assert ((share - p).abs() < 4 * (p * (1 - p) / 6000).sqrt()).all()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads: 5 does not divide the width 24"):
        Matching(dim=24, heads=5)
