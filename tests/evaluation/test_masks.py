"""Masks for evaluations: parts of long clips, centred baselines."""

import pytest
import torch

from avcl.errors import BadClip, UserError
from avcl.evaluation.masks import Centre, centre_box, centre_disc, masks_of, parts


@pytest.mark.parametrize(
    ("frames", "most", "expected"),
    [(4, 4, [(0, 4)]), (5, 4, [(0, 4), (1, 1)]), (9, 4, [(0, 4), (4, 4), (5, 1)]), (2, 4, [(0, 2)])],
)
def test_every_frame_is_new_once(frames, most, expected):
    assert list(parts(frames, most)) == expected
    assert sum(new for _, new in expected) == frames


def test_centred_shapes_by_hand():
    assert centre_box(4, 8, 0.5).int().tolist() == [[0] * 8, *[[0, 0, 1, 1, 1, 1, 0, 0]] * 2, [0] * 8]
    assert centre_disc(4, 4, 0.5).int().tolist() == [[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]
    assert centre_box(4, 8, 1.0).all() and centre_disc(4, 8, 1.0).all()


def test_the_best_size_is_learned_from_masks():
    for shape in (centre_box, centre_disc):
        centre = Centre(shape, 32, 32)
        centre.add(shape(32, 32, 0.5).expand(3, -1, -1))
        centre.add(shape(32, 32, 0.9)[None])
        assert 0.45 < centre.size <= 0.5  # several sizes are the same pixels
        assert torch.equal(centre.mask, shape(32, 32, 0.5))


class Clips:
    def __init__(self, masks):
        self.masks = masks

    def truth(self, number):
        if (mask := self.masks[number]) is None:
            raise BadClip("a.png", "no such mask")
        return type("Truth", (), {"mask": mask})


def test_masks_of_clips_that_say_nothing_of_labels_are_all_known():
    clips = Clips([torch.zeros(2, 4, 4).bool(), torch.ones(2, 4, 4).bool(), None])
    found = masks_of(clips, [1, 0])
    assert found.mask.float().mean((1, 2, 3)).tolist() == [1.0, 0.0] and found.labelled.all()
    with pytest.raises(UserError, match=r"a\.png: no such mask"):
        masks_of(clips, [2])
    with pytest.raises(ValueError, match="no truth"):
        masks_of([1, 2], [0])
