"""Multiply-adds of a step, against sums by hand."""

import pytest
import torch
from helpers.toys import small, small_learner
from torch.utils.flop_counter import FlopCounterMode

from avcl.bench.arithmetic import matrix_speed, multiply_adds
from avcl.bench.stages import Stages
from avcl.plugins.derpp import DERpp
from avcl.plugins.finetune import Finetune
from avcl.plugins.stella import Stella
from avcl.plugins.stella.ops import selection
from avcl.plugins.stella.ops.philox import Use
from avcl.testing import Noise


def counted(strategy):
    """Of the third batch."""
    stages = Stages(small_learner(strategy, epochs=100))
    stages.start(Noise().benchmark().train_stream[0])
    stages.advance()
    return stages.learner.backbone, *multiply_adds(stages)


def blocks(count, dim, tokens):
    """Of so many transformer blocks: queries, keys and values; attention; its projection; the MLP."""
    return count * (3 * tokens * dim**2 + 2 * tokens**2 * dim + tokens * dim**2 + 8 * tokens * dim**2)


def forward(backbone, clips):
    """Of the masked pass, in the form of the STELLA authors."""
    dim, narrow, grid = backbone.dim, backbone.decoder_dim, backbone.grid
    full, patch = {"audio": grid.audio, "video": grid.video}, {"audio": 256, "video": 768}
    seen = {kind: int(count * (1 - backbone.mask_ratio)) for kind, count in full.items()}
    one = blocks(backbone.fusion_depth, dim, sum(seen.values()))
    for kind, tokens in seen.items():
        one += tokens * patch[kind] * dim + blocks(backbone.depth + backbone.fusion_depth, dim, tokens)
        one += tokens * dim * narrow + blocks(backbone.decoder_depth, narrow, full[kind])
        one += (full[kind] - tokens) * narrow * patch[kind]
    return clips * one + 2 * clips**2 * dim  # and similarities in both directions


def test_a_forward_pass_is_the_sum_of_its_products():
    backbone, work, foreign = counted(Finetune())
    assert work["forward"] == forward(backbone, 4)
    assert foreign == []
    assert work["data"] == work["optimizer"] == work["logging"] == work["scoring"] == 0


def test_replay_doubles_the_clips():
    backbone, work, _ = counted(small(DERpp))
    assert work["forward"] == forward(backbone, 8)
    assert work["memory"] == work["scoring"] == 0


def test_a_cosine_score_costs_the_encoders_and_both_similarities():
    backbone, work, foreign = counted(small(Stella, scorer="cosine", select_by="importance"))
    tokens, patch, dim = {"audio": 8, "video": 8}, {"audio": 256, "video": 768}, backbone.dim
    encode = sum(count * patch[kind] * dim + blocks(backbone.depth, dim, count) for kind, count in tokens.items())
    assert work["scoring"] == 4 * (encode + 2 * 8 * 8 * dim)
    assert foreign == ["avcl::prune", "avcl::sample", "avcl::select_chunks"]


def test_importance_is_counted_as_its_attention_map():
    query, key = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 7, 4)
    with FlopCounterMode(display=False) as counter:
        selection.importance(query, key, 0.5)
        selection.prune(torch.rand(2, 7), seed=1, use=Use.PRUNE_AUDIO, index=torch.arange(2))
    assert counter.get_total_flops() == 2 * (2 * 3 * 5 * 7 * 4)


def test_the_matrix_speed_is_products_over_time(monkeypatch):
    """A clock that goes on by 0.15 s at every look: two products of 1024^3 until 0.2 s are over."""
    looks = iter(0.15 * number for number in range(10))
    assert matrix_speed(torch.device("cpu"), torch.float32, lambda: next(looks)) == pytest.approx(2 * 1024**3 / 0.45)
