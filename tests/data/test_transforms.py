"""Crops, sizes and windows against cases worked out by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision import transforms as published

from avcl.data.transforms import crops, multi_scale_crop, normalise, resize, shrink, store_size
from avcl.data.windows import frame_times, middle_start, random_start, room, uniform_starts


def ramp(height, width, frames=1):
    """Smooth pictures: red grows downwards, green to the right, blue from frame to frame."""
    picture = np.zeros((frames, 3, height, width), np.uint8)
    picture[:, 0] = np.linspace(0, 255, height)[:, None]
    picture[:, 1] = np.linspace(0, 255, width)[None, :]
    picture[:, 2] = np.arange(frames)[:, None, None]
    return torch.from_numpy(picture)


# ---- crops -------------------------------------------------------------------------------------------------


def test_sizes_of_the_published_crops():
    # 256, 224 and 192; not 256 x 192 nor 192 x 256, which are two steps apart; 13 places for each
    sizes = Counter((tall, wide) for _, _, tall, wide in crops(256, 256, 224, 224))
    assert sizes == dict.fromkeys(
        [(256, 256), (256, 224), (224, 256), (224, 224), (224, 192), (192, 224), (192, 192)], 13
    )


def test_places_of_the_published_crops():
    # beside 192 x 192 there are 64: corners, centre, middles of the sides, centres of the quarters
    places = [(down, right) for down, right, tall, wide in crops(256, 256, 224, 224) if (tall, wide) == (192, 192)]
    sides = [(0, 0), (0, 64), (64, 0), (64, 64), (32, 32), (32, 0), (32, 64), (64, 32), (0, 32)]
    assert sorted(places) == sorted([*sides, (16, 16), (16, 48), (48, 16), (48, 48)])


def test_a_nearly_fitting_crop_is_made_to_fit():
    # 64 is stored as 73; int(0.875 * 73) = 63 and int(0.75 * 73) = 54
    assert store_size(64, 64) == (73, 73)
    assert {tall for _, _, tall, _ in crops(73, 73, 64, 64)} == {73, 64, 54}


def test_stored_sizes():
    assert store_size(224, 224) == (256, 256)
    assert store_size(112, 224) == (128, 256)


def test_training_crops_are_among_the_published_and_shared_by_the_frames():
    frames = ramp(256, 256, frames=4)
    expected = [
        resize(frames[..., down : down + tall, right : right + wide], 224, 224)
        for down, right, tall, wide in crops(256, 256, 224, 224)
    ]
    seen = set()
    for seed in range(40):
        cropped = multi_scale_crop(frames, 224, 224, np.random.default_rng(seed))
        assert cropped.shape == (4, 3, 224, 224)
        assert cropped.dtype == torch.uint8
        matches = [place for place, wanted in enumerate(expected) if torch.equal(cropped, wanted)]
        assert matches
        seen.add(matches[0])
    assert len(seen) > 20


def test_a_crop_that_fits_is_only_cut_out():
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 256, 256), np.uint8))
    for seed in range(100):
        draw = np.random.default_rng(seed)
        places = crops(256, 256, 224, 224)
        down, right, tall, wide = places[draw.integers(len(places))]
        if (tall, wide) == (224, 224):
            cropped = multi_scale_crop(frames, 224, 224, np.random.default_rng(seed))
            assert torch.equal(cropped, frames[..., down : down + 224, right : right + 224])
            return
    pytest.fail("no crop of 224 x 224 in 100 draws")


# ---- sizes -------------------------------------------------------------------------------------------------


def test_shrink_keeps_the_centre():
    # 512 x 1024 with four columns of 256: halved, the middle 256 of 512 are the two inner columns
    frames = torch.zeros(1, 3, 512, 1024, dtype=torch.uint8)
    for column, value in enumerate((10, 60, 110, 160)):
        frames[..., 256 * column : 256 * (column + 1)] = value
    small = shrink(frames, 256, 256)
    assert small.shape == (1, 3, 256, 256)
    assert torch.all(small[..., 2:126] == 60)
    assert torch.all(small[..., 130:254] == 110)


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (240, 320), (48, 64), (255, 257), (300, 300)])
def test_shrink_is_the_authors_extraction(size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    picture = Image.fromarray(noise)
    theirs = published.Compose([published.Resize(256), published.CenterCrop(256)])(picture)
    ours = shrink(torch.from_numpy(noise).permute(2, 0, 1)[None], 256, 256)[0].permute(1, 2, 0)
    assert np.abs(np.asarray(theirs).astype(int) - ours.numpy()).max() <= 1


def test_shrink_to_another_aspect_ratio():
    assert shrink(ramp(100, 100), 64, 128).shape == (1, 3, 64, 128)
    assert shrink(ramp(90, 10), 64, 64).shape == (1, 3, 64, 64)


def test_evaluation_resizes_the_whole_picture():
    halves = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    halves[..., 128:] = 200
    small = resize(halves, 224, 224)
    assert torch.all(small[..., :110] == 0)
    assert torch.all(small[..., 114:] == 200)


def test_normalise_by_hand():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)
    black, white = [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]
    assert_close(normalise(pixels).flatten(1), torch.tensor([black, white]))
    assert normalise(pixels).dtype == torch.float32


# ---- windows -----------------------------------------------------------------------------------------------


def test_windows_of_the_paper():
    assert room(10, 4) == 48
    starts = {random_start(10, 4, np.random.default_rng(seed)) for seed in range(2000)}
    assert starts == {k / 8 for k in range(48)}  # 0 to 5.875 s
    assert middle_start(10, 4) == 3
    assert uniform_starts(10, 4) == [0, 2, 4, 6]
    assert frame_times(3, 4, 4) == [3, 4, 5, 6]


def test_windows_of_a_clip_cut_a_little_short():
    assert room(9.96, 4) == 48
    assert middle_start(9.96, 4) == 3
    assert room(9.9, 4) == 47
    assert middle_start(9.9, 4) == 2.875  # still a whole step


def test_a_window_that_just_fits():
    assert room(4, 4) == room(3.96, 4) == 0
    assert random_start(4, 4, np.random.default_rng(0)) == 0
    assert middle_start(4, 4) == 0
    assert uniform_starts(4, 4) == [0, 0, 0, 0]
    assert room(3.9, 4) < 0


def test_frames_of_other_windows():
    assert frame_times(0.5, 1, 2) == [0.5, 1.0]
    assert uniform_starts(10, 4, count=1) == [0]
