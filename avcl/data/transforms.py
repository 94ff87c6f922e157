"""Frames as published: shrunk once, cropped at one of a few places in training, resized, normalised.

All of it works on (T, 3, H, W) uint8; a clip's frames are treated alike.
"""

import itertools
from collections.abc import Sequence

import torch
from numpy.random import Generator
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
SCALES = (1.0, 0.875, 0.75)
# The 13 places of a crop, in quarters of the space beside it (right, down): corners, centre, middles of the
# sides, and the centres of the quarters.
PLACES = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))


def store_size(height: int, width: int) -> tuple[int, int]:
    """The size at which frames are kept for samples of ``height`` x ``width``: 256 for 224, in proportion."""
    return round(height * 256 / 224), round(width * 256 / 224)


def shrink(frames: Tensor, height: int, width: int) -> Tensor:
    """The centre of the frames at (height, width), as large a part as the aspect ratio allows."""
    tall, wide = frames.shape[-2:]
    if wide * height >= tall * width:
        size = [height, wide * height // tall]
    else:
        size = [tall * width // wide, width]
    return vision.center_crop(_resize(frames, size), [height, width])


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Evaluation: the whole frames at (height, width)."""
    return _resize(frames, [height, width])


def multi_scale_crop(frames: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Training: the same random crop of all frames, at (height, width).

    GroupMultiScaleCrop of Temporal Segment Networks (arXiv:1608.00859): its two sides are 1, 0.875 or 0.75 of
    the frames', neighbours in this list or equal.
    """
    places = crops(frames.shape[-2], frames.shape[-1], height, width)
    down, right, tall, wide = places[generator.integers(len(places))]
    return _resize(frames[..., down : down + tall, right : right + wide], [height, width])


def crops(tall: int, wide: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Every crop (down, right, height, width) of frames ``tall`` x ``wide``, each as likely as the other."""
    talls = [_snap(int(tall * scale), height) for scale in SCALES]
    wides = [_snap(int(wide * scale), width) for scale in SCALES]
    pairs = [(i, j) for i, j in itertools.product(range(len(SCALES)), repeat=2) if abs(i - j) <= 1]
    return [
        (down * ((tall - talls[i]) // 4), right * ((wide - wides[j]) // 4), talls[i], wides[j])
        for i, j in pairs
        for right, down in PLACES
    ]


def normalise(frames: Tensor, mean: Sequence[float] = MEAN, deviation: Sequence[float] = DEVIATION) -> Tensor:
    """(T, 3, H, W) float32 from uint8, by mean and deviation of each channel: by default ImageNet's."""
    centre, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (mean, deviation))
    return ((frames.float() / 255 - centre) / scale).contiguous()


def _snap(side: int, wanted: int) -> int:
    """A crop that is nearly as large as wanted needs no resizing."""
    return wanted if abs(side - wanted) < 3 else side


def _resize(frames: Tensor, size: list[int]) -> Tensor:
    return vision.resize(frames, size, InterpolationMode.BILINEAR, antialias=True)
