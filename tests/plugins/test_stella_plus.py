"""STELLA+: how many clips fit, what is kept of them, and that all else is STELLA."""

import pytest
import torch
from helpers.toys import enter, fed, four, held, small, weights

from avcl.backbones.cavmae import CavMae
from avcl.clip import Clip
from avcl.memory import Memory
from avcl.plugins.derpp import DERpp
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus
from avcl.training.learner import Learner

WHOLE = 4 * (512 * 256 + 784 * 768)  # bytes of a clip at the paper's sizes
EMBEDDINGS = 4 * 2 * 768


def paper_backbone(dim=24):
    """A shallow one for clips of the paper's size."""
    few = {"heads": 12, "depth": 1, "fusion_depth": 1, "decoder_dim": 32, "decoder_heads": 2, "decoder_depth": 1}
    return CavMae(frames=4, height=224, width=224, times=1024, mels=128, dim=dim, **few)


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
    Learner(backbone=paper_backbone(), strategy=StellaPlus(memory=memory, keep_audio=audio, keep_video=video))
    assert memory.state_dict()["slots"] == clips
    assert memory.capacity == capacity, "the setting is the setting"
    kept = 4 * (int(512 * audio) * 256 + int(784 * video) * 768)
    assert clips == capacity * WHOLE // kept


def test_it_takes_no_more_bytes_than_derpp():
    """At the paper's sizes, with everything that is stored beside the patches: within one percent."""
    clip = Clip.cut(torch.randn(1, 4, 3, 224, 224), torch.randn(1, 1, 1024, 128), 16)
    backbone, made = paper_backbone(dim=768), {}
    for cls in (DERpp, Stella, StellaPlus):
        strategy = cls(memory=Memory(capacity=20))
        learner = enter(Learner(backbone=backbone, strategy=strategy), clip)
        with torch.no_grad():  # a step, but for what comes after the forward pass
            strategy.prepare(learner)
            learner.output = backbone(learner.batch, backbone.draw_masks(learner.batch))
            strategy.observe(learner)
        made[cls] = strategy.memory
    budget, places = WHOLE + EMBEDDINGS, 8 + 2 * (512 + 784)
    assert made[DERpp].nbytes == budget + places
    assert made[Stella].nbytes == budget + places + EMBEDDINGS + 2 * 4 * (512 + 784)
    assert made[StellaPlus].nbytes == WHOLE // 2 + 2 * EMBEDDINGS + 8 + 2 * (256 + 392)
    assert made[StellaPlus].state_dict()["slots"] == 40
    assert budget * 20 < made[StellaPlus].full_bytes <= 1.01 * budget * 20
    assert made[StellaPlus].full_bytes == pytest.approx(1.006 * made[DERpp].full_bytes, rel=5e-4)
    assert 2000 * budget // made[StellaPlus].nbytes == 3971


def test_a_budget_in_bytes_counts_everything():
    item = 4 * (4 * 768 + 4 * 256) + 4 * 4 * 24 + 2 * (4 + 4) + 8
    strategy = small(StellaPlus, memory=Memory(budget_bytes=7 * item - 1))
    fed(strategy, 0, 4, dtype=torch.float32)
    assert len(strategy.memory) == 6
    assert strategy.log()["memory_bytes"] == strategy.full_bytes() == 6 * item


# ---- what is kept --------------------------------------------------------------------------------------------


def test_memory_holds_the_chosen_patches_in_their_place():
    strategy = small(StellaPlus, capacity=4)
    learner = fed(strategy, 0)
    past, whole = held(strategy), four(0)
    assert set(past.extra) == {"audio_embedding", "video_embedding", "audio_query", "video_query"}
    assert torch.equal(past.clip.index, whole.index)
    for side in ("video", "audio"):
        chosen, at = getattr(past.clip, side), getattr(past.clip, f"{side}_at")
        assert at.shape == (4, 4)
        assert torch.equal(at, getattr(learner.batch, f"{side}_at"))
        assert torch.equal(chosen, getattr(whole.take(past.clip.video_at, past.clip.audio_at), side))
    assert strategy.memory.state_dict()["rows"]["video_at"].dtype == torch.int16


def test_what_is_replayed_is_what_was_stored():
    """A clip that was offered when it was current comes back with the same patches every time."""
    strategy, stored = small(StellaPlus, capacity=4), {}

    def places(clip):
        return zip(clip.index.tolist(), torch.cat([clip.video_at, clip.audio_at], 1).tolist(), strict=True)

    def watch(learner):
        for index, at in places(learner.batch[:4]):
            stored.setdefault(index, []).append(at)
        assert all(at in stored[index] for index, at in places(learner.batch[4:]))
        if len(learner.batch) > 4:
            assert torch.equal(learner.batch[4:].video, strategy._past.clip.video)

    fed(strategy, *(0, 4, 8, 12) * 3, each=watch)
    assert len(stored) == 16
    assert len(strategy.memory) == 8, "twice as many as the capacity of 4 whole clips"


def test_the_first_step_is_stellas():
    assert torch.equal(*(weights(fed(small(cls), 0)) for cls in (Stella, StellaPlus)))


def test_current_clips_are_scored_as_stella_does():
    """Past clips are the same, and so are the queries that were stored with them."""
    found = []
    for cls in (Stella, StellaPlus):
        strategy = small(cls, capacity=16)
        learner = fed(strategy, 0)
        strategy.prepare(enter(learner, four(4)))
        assert strategy._scores["video_correlation"].max() > 0
        found.append(strategy._scores | {key: getattr(learner.batch, key)[:4] for key in ("video_at", "audio_at")})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
