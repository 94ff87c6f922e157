"""Two replaying strategies in one learner: each has rows, a memory and loss terms of its own."""

import itertools

import pytest
import torch
from helpers.toys import fed, small

from avcl.plugins.cls_er import CLSER
from avcl.plugins.derpp import DERpp
from avcl.plugins.er import ER
from avcl.plugins.esmer import ESMER
from avcl.plugins.gmed import GMED
from avcl.plugins.lump import LUMP
from avcl.plugins.mats import MATS
from avcl.plugins.mir import MIR
from avcl.plugins.random_patches import RandomPatches
from avcl.plugins.stella import Stella
from avcl.plugins.stella.plus import StellaPlus

REPLAYING = [ER, MIR, DERpp, GMED, CLSER, ESMER, LUMP, RandomPatches, MATS, Stella, StellaPlus]
SELECTING = (RandomPatches, MATS, Stella, StellaPlus)


def made(cls, **settings):
    return small(cls, capacity=16, **{"loss_margin": 1e3} if cls is ESMER else {}, **settings)


@pytest.mark.parametrize(
    "pair", list(itertools.product(REPLAYING, repeat=2)), ids=lambda pair: "-".join(cls.name for cls in pair)
)
def test_every_pair_trains_and_keeps_its_rows_apart(pair):
    parts = [made(cls, replay=None if cls is LUMP else 2 + place) for place, cls in enumerate(pair)]
    learner = fed(parts, 0, 4, 8, dtype=torch.float32)
    assert torch.isfinite(learner.loss)
    replayed = [0 if isinstance(part, LUMP) else 2 + place for place, part in enumerate(parts)]
    assert len(learner.batch) == 4 + sum(replayed)
    assert learner.batch.index[:4].tolist() == learner.current.index.tolist()
    slots = [part.replayed(learner) for part in parts]
    assert [len(learner.batch[rows]) for rows in slots] == replayed
    assert len({row for rows in slots for row in range(rows.start, rows.stop)}) == sum(replayed)
    assert all(len(part.memory) == 12 for part in parts)
    assert learner.batch.video.shape[1] == min(4 if isinstance(part, SELECTING) else 8 for part in parts)
    drifting = [part for part in parts if isinstance(part, DERpp)]
    assert ["drift" in key for key in learner.losses].count(True) == len(drifting)


def test_split_contrasts_current_clips_and_those_of_each_strategy_among_themselves():
    parts = [made(ER, replay=2, contrastive_scope="split"), made(DERpp, replay=3, contrastive_scope="split")]
    learner = fed(parts, 0, 4)
    output = learner.output
    for rows in (slice(0, 4), slice(4, 6), slice(6, 9)):
        expected = learner.backbone.contrast(output.audio[rows], output.video[rows])
        torch.testing.assert_close(output.terms["contrastive"][rows], expected)


def test_what_is_replayed_of_whole_clips_is_a_random_subset_beside_selected_ones():
    parts = [made(Stella), made(ER)]
    learner = fed(parts, 0, 4)
    rows = learner.batch[parts[1].replayed(learner)]
    assert rows.video_at.shape[1] == 4 and (rows.video_at.diff(dim=1) > 0).all()
    assert set(rows.index.tolist()) == {0, 1, 2, 3}


def test_modules_of_one_name_are_saved_under_two():
    learner = fed([made(Stella), made(StellaPlus)])
    assert [name for name, _ in learner.named_modules()] == ["matching", "stella-plus.matching"]
