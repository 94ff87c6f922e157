"""LUMP: mixing is linear, memory stays unmixed, and lambda is what the Beta distribution says (L1: identities)."""

from types import SimpleNamespace

import pytest
import torch
from helpers.toys import enter, fed, four, held, small, step

from avcl.errors import SettingsError
from avcl.plugins.lump import LUMP
from avcl.utils.seeding import generator


def lump(fixed, **settings):
    """LUMP with a ``fixed`` lambda."""
    return small(type("Fixed", (LUMP,), {"share": lambda self, learner: fixed}), **settings)


def test_L2_lambda_of_nothing_is_the_loss_on_the_past():
    strategy = lump(0.0)
    learner = fed(strategy, 0, 4)
    before = held(strategy).clip
    step(learner, four(8))
    past = before[strategy._past.slots]
    assert torch.equal(learner.batch.video, past.video) and torch.equal(learner.batch.audio, past.audio)


def test_L3_one_lambda_for_every_number_of_picture_and_sound():
    strategy = lump(0.3)
    learner = fed(strategy, 0, 4, 8)
    for side in ("video", "audio"):
        mixed, now, past = (getattr(clip, side) for clip in (learner.batch, learner.current, strategy._past.clip))
        share = (mixed - past) / (now - past)
        torch.testing.assert_close(share, torch.full_like(share, 0.3), rtol=1e-7, atol=0)
        torch.testing.assert_close(mixed, 0.3 * now + 0.7 * past)
    assert strategy.log()["lambda"] == 0.3


def test_L4_the_loss_sees_as_many_rows_and_memory_gets_them_unmixed():
    strategy = lump(0.5, capacity=16)
    learner = fed(strategy, 0, 4, 8)
    assert len(learner.batch) == len(learner.output.audio) == learner.num_current == 4
    stored, fresh = held(strategy).clip[8:], four(8)
    assert all(torch.equal(getattr(stored, key), getattr(fresh, key)) for key in ("video", "audio", "index"))
    assert list(learner.losses) == ["mae_audio", "mae_video", "contrastive"]


@pytest.mark.parametrize(("alpha", "share"), [(0.05, 0.87), (0.1, 0.75), (0.4, 0.36)])
def test_L5_how_often_there_is_next_to_no_mixing(alpha, share):
    """P(lambda < 0.05 or > 0.95), and the mean of 1/2, over 3,000 draws."""
    draws, strategy = SimpleNamespace(generators={"method": generator(0, "method")}), LUMP(alpha=alpha)
    drawn = torch.tensor([strategy.share(draws) for _ in range(3000)])
    extreme = ((drawn < 0.05) | (drawn > 0.95)).double().mean()
    assert abs(extreme - share) < 4 * (share * (1 - share) / 3000) ** 0.5 + 0.005  # the share has two digits
    assert abs(drawn.mean() - 0.5) < 4 * 0.5 / 3000**0.5
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_a_memory_smaller_than_the_batch_is_paired_again():
    strategy = lump(0.0, capacity=3)
    learner = fed(strategy, 0, 4)
    strategy.prepare(enter(learner, four(8)))
    past = strategy._past.clip.video
    assert torch.equal(learner.batch.video, torch.cat([past, past[:1]]))


def test_a_memory_of_half_precision_is_mixed_in_full():
    assert fed(small(LUMP, dtype="bfloat16"), 0, 4, dtype=torch.float32).batch.video.dtype is torch.float32


def test_settings_of_replay_are_refused():
    with pytest.raises(SettingsError) as error:
        LUMP(contrastive_scope="split", replay=4)
    assert error.value.mistakes == [
        "contrastive_scope: invalid value 'split': must be 'joint', as mixed clips are one batch",
        "replay: invalid value 4: must be null, as each clip is mixed with one",
    ]
