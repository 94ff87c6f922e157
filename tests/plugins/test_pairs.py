"""Two replaying strategies in one learner: each has rows, a memory and loss terms of its own."""

import copy
import itertools

import pytest
import torch
from helpers.toys import clips, step

from avcl.memory import Memory
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
SMALL = {"heads": 4, "chunk": 2}


def made(cls, **settings):
    own = SMALL if issubclass(cls, Stella) else {"loss_margin": 1e3} if cls is ESMER else {}
    return cls(memory=Memory(capacity=16), **own, **settings)


@pytest.mark.parametrize(
    "pair", list(itertools.product(REPLAYING, repeat=2)), ids=lambda pair: "-".join(cls.name for cls in pair)
)
def test_every_pair_trains_and_keeps_its_rows_apart(make_learner, pair):
    parts = [made(cls, replay=None if cls is LUMP else 2 + place) for place, cls in enumerate(pair)]
    learner = make_learner(parts)
    for start in (0, 4, 8):
        step(learner, clips(range(start, start + 4), dtype=torch.float32))
    assert torch.isfinite(learner.loss)
    replayed = [0 if isinstance(part, LUMP) else 2 + place for place, part in enumerate(parts)]
    assert len(learner.batch) == 4 + sum(replayed)
    assert learner.batch.index[:4].tolist() == learner.current.index.tolist()
    slots = [part.replayed(learner) for part in parts]
    assert [len(learner.batch[rows]) for rows in slots] == replayed
    assert len({row for rows in slots for row in range(rows.start, rows.stop)}) == sum(replayed)
    assert all(len(part.memory) == min(12, 16) for part in parts)
    kept = [4 if isinstance(part, SELECTING) else 8 for part in parts]
    assert learner.batch.video.shape[1] == min(kept)
    drifting = [part for part in parts if isinstance(part, DERpp)]
    assert ["drift" in key for key in learner.losses].count(True) == len(drifting)


@pytest.mark.parametrize("pair", [(ER, DERpp), (Stella, CLSER), (StellaPlus, MIR)], ids=str)
def test_a_pair_resumes_bit_for_bit(make_learner, pair):
    whole = make_learner([made(cls) for cls in pair])
    for start in (0, 4):
        step(whole, clips(range(start, start + 4), dtype=torch.float32))
    again = make_learner([made(cls) for cls in pair])
    again.load_state_dict(copy.deepcopy(whole.state_dict()))  # as from a file: nothing is shared
    for learner in (whole, again):
        step(learner, clips(range(8, 12), dtype=torch.float32))
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), again.parameters(), strict=True))


def test_split_contrasts_current_clips_and_those_of_each_strategy_among_themselves(make_learner):
    parts = [made(ER, replay=2, contrastive_scope="split"), made(DERpp, replay=3, contrastive_scope="split")]
    learner = make_learner(parts)
    for start in (0, 4):
        step(learner, clips(range(start, start + 4), dtype=torch.float32))
    output, groups = learner.output, (slice(0, 4), slice(4, 6), slice(6, 9))
    for rows in groups:
        expected = learner.backbone.contrast(output.audio[rows], output.video[rows])
        torch.testing.assert_close(output.terms["contrastive"][rows], expected)


def test_what_is_replayed_of_whole_clips_is_a_random_subset_beside_selected_ones(make_learner):
    parts = [made(Stella), made(ER)]
    learner = make_learner(parts)
    for start in (0, 4):
        step(learner, clips(range(start, start + 4), dtype=torch.float32))
    rows = learner.batch[parts[1].replayed(learner)]
    assert rows.video_at.shape[1] == 4 and (rows.video_at.diff(dim=1) > 0).all()
    stored = {int(i): clip for i, clip in zip(range(8), parts[1].memory.read(torch.arange(4)).clip.index, strict=False)}
    assert set(rows.index.tolist()) <= {int(index) for index in stored.values()}


def test_modules_of_one_name_are_saved_under_two(make_learner):
    learner = make_learner([made(Stella), made(StellaPlus)])
    assert [name for name, _ in learner.named_modules()] == ["matching", "stella-plus.matching"]
