"""Crops, sizes and windows against cases worked out by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision import transforms as published

from avcl.data.transforms import crops, multi_scale_crop, normalise, resize, shrink, store_size
from avcl.data.windows import frame_times, middle_start, random_start, room


# ---- crops ----
def test_the_published_crops_and_stored_sizes():
    # 256, 224 and 192; not 256 x 192 nor 192 x 256, which are two steps apart; 13 places for each
    found = crops(256, 256, 224, 224)
    sizes = [(256, 256), (256, 224), (224, 256), (224, 224), (224, 192), (192, 224), (192, 192)]
    assert Counter((tall, wide) for _, _, tall, wide in found) == dict.fromkeys(sizes, 13)
    # beside 192 x 192 there are 64: corners, centre, middles of the sides, centres of the quarters
    places = [(down, right) for down, right, tall, wide in found if (tall, wide) == (192, 192)]
    sides = [(0, 0), (0, 64), (64, 0), (64, 64), (32, 32), (32, 0), (32, 64), (64, 32), (0, 32)]
    assert sorted(places) == sorted([*sides, (16, 16), (16, 48), (48, 16), (48, 48)])
    assert (store_size(224, 224), store_size(112, 224)) == ((256, 256), (128, 256))
    # 64 is stored as 73, and a nearly fitting crop is made to fit: int(0.875 * 73) = 63, int(0.75 * 73) = 54
    assert store_size(64, 64) == (73, 73)
    assert {tall for _, _, tall, _ in crops(73, 73, 64, 64)} == {73, 64, 54}


def test_training_crops_are_among_the_published_and_shared_by_the_frames():
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 256, 256), np.uint8))
    expected, places = [], crops(256, 256, 224, 224)
    for down, right, tall, wide in places:
        cut = frames[..., down : down + tall, right : right + wide]
        expected.append(cut if (tall, wide) == (224, 224) else resize(cut, 224, 224))  # what fits is only cut out
    seen = set()
    for seed in range(40):
        cropped = multi_scale_crop(frames, 224, 224, np.random.default_rng(seed))
        assert (cropped.shape, cropped.dtype) == ((4, 3, 224, 224), torch.uint8)
        seen.add(next(place for place, wanted in enumerate(expected) if torch.equal(cropped, wanted)))
    assert len(seen) > 20
    assert (224, 224) in {places[place][2:] for place in seen}


# ---- sizes ----


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (240, 320), (48, 64), (255, 257), (300, 300)])
def test_shrink_and_resize_are_the_authors(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    picture = Image.fromarray(noise)
    theirs = published.Compose([published.Resize(256), published.CenterCrop(256)])(picture)
    ours = shrink(torch.from_numpy(noise).permute(2, 0, 1)[None], 256, 256)[0].permute(1, 2, 0)
    assert np.abs(np.asarray(theirs).astype(int) - ours.numpy()).max() <= 1
    whole = published.functional.resize(picture, [224, 224])  # what evaluation sees
    ours = resize(torch.from_numpy(noise).permute(2, 0, 1)[None], 224, 224)[0].permute(1, 2, 0)
    assert np.abs(np.asarray(whole).astype(int) - ours.numpy()).max() <= 2
    assert shrink(torch.zeros(1, 3, *size, dtype=torch.uint8), 64, 256).shape == (1, 3, 64, 256)


def test_normalise_by_hand():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    black, white = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    assert_close(normalise(pixels).flatten(1), torch.tensor([black, white]))
    assert normalise(pixels).dtype == torch.float32


# ---- windows ----
def test_windows_of_the_paper_and_of_clips_cut_short():
    starts = {random_start(10, 4, np.random.default_rng(seed)) for seed in range(2000)}
    assert starts == {k / 8 for k in range(48)}  # 0 to 5.875 s
    assert frame_times(3, 4, 4) == [3, 4, 5, 6]
    assert frame_times(0.5, 1, 2) == [0.5, 1.0]
    for seconds, steps, middle in ((10, 48, 3), (9.96, 48, 3), (9.9, 47, 2.875), (4, 0, 0), (3.96, 0, 0)):
        assert (room(seconds, 4), middle_start(seconds, 4)) == (steps, middle)
    assert random_start(4, 4, np.random.default_rng(0)) == 0
    assert room(3.9, 4) < 0
