"""Clips: cutting, taking, joining, and hiding what a strategy must not know."""

import pytest
import torch

from avcl.clip import Clip, Masks, Output, Shape
from avcl.errors import HiddenError


def cut(batch=2, **more):
    shape = Shape(frames=2, height=32, width=48, times=64, mels=32)
    frames = torch.arange(batch * 2 * 3 * 32 * 48).reshape(batch, 2, 3, 32, 48).float()
    mel = torch.arange(batch * 64 * 32).reshape(batch, 1, 64, 32).float()
    return frames, mel, shape.grid(16), Clip.cut(frames, mel, 16, **more)


def test_a_patch_is_where_its_position_says():
    frames, mel, grid, clip = cut()
    assert (grid.video, grid.audio) == (2 * 2 * 3, 4 * 2) == (clip.video.shape[1], clip.audio.shape[1])
    t, row, col = 1, 1, 2
    number = (t * grid.rows + row) * grid.cols + col
    pixels = frames[0, t, :, row * 16 : row * 16 + 16, col * 16 : col * 16 + 16]
    assert torch.equal(clip.video[0, number], pixels.permute(1, 2, 0).flatten())
    time, freq = 3, 1
    bins = mel[1, 0, time * 16 : time * 16 + 16, freq * 16 : freq * 16 + 16]
    assert torch.equal(clip.audio[1, time * grid.freqs + freq], bins.flatten())
    assert torch.equal(clip.video_at[0], torch.arange(12))


def test_take_keeps_the_way_back():
    _, _, _, clip = cut()
    video_idx, audio_idx = torch.tensor([[3, 1], [0, 11]]), torch.tensor([[7], [2]])
    part = clip.take(video_idx, audio_idx)
    again = part.take(torch.tensor([[1], [0]]), torch.tensor([[0], [0]]))
    assert torch.equal(part.video_at, video_idx)
    assert torch.equal(part.video[1, 1], clip.video[1, 11])
    assert again.video_at.tolist() == [[1], [0]]
    assert torch.equal(again.audio, part.audio)


@pytest.mark.parametrize(("video", "audio"), [(12, 0), (-1, 0), (0, 8), (0, -1)])
def test_a_patch_of_another_clip_cannot_be_taken(video, audio):
    _, _, _, clip = cut()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        clip.take(torch.tensor([[0], [video]]), torch.tensor([[audio], [0]]))


def test_sums_and_slices():
    _, _, _, clip = cut()
    both = clip + clip[1:]
    assert len(both) == 3
    assert both.index.tolist() == [0, 1, 1]
    assert torch.equal(both.video[2], clip.video[1])
    with pytest.raises(ValueError, match="12 and 1 video patches cannot form one batch"):
        clip + clip.take(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long))


def test_what_is_hidden_cannot_be_read_and_stays_hidden_in_sums():
    _, _, _, clip = cut(label=torch.tensor([4, 5]), task=torch.tensor([0, 0]))
    assert clip.label.tolist() == [4, 5]
    hidden = clip.masked()
    for read in (lambda: hidden.label, lambda: hidden.task, lambda: (clip + hidden).label, lambda: hidden[0:1].task):
        with pytest.raises(HiddenError, match=r"task-free and has no labels.*needs_boundaries = True"):
            read()
    assert "label" not in hidden.tensors()
    assert "label" not in repr(clip)


def test_casting_leaves_positions_and_identities_of_64_bits_alone():
    index = torch.tensor([2**62 + 1, -(2**61) - 3])
    half = cut(index=index)[-1].to(torch.float16)
    assert (half.video.dtype, half.video_at.dtype) == (torch.float16, torch.int64)
    assert torch.equal(half.index, index)


def test_sides_must_be_multiples_of_the_patch():
    with pytest.raises(ValueError, match=r"^frames: invalid sides \(30, 32\): must be multiples of patch = 16$"):
        Clip.cut(torch.zeros(1, 1, 3, 30, 32), torch.zeros(1, 1, 16, 16), 16)


def test_masks_and_outputs_of_some_rows():
    masks = Masks(torch.tensor([[1, 0], [0, 1]]), torch.tensor([[0], [0]]), 1, 1)
    assert masks[1:].video.tolist() == [[0, 1]]
    terms = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5, 0.5])}
    output = Output(terms, torch.zeros(2, 3), torch.zeros(2, 3))
    assert output.loss.tolist() == [1.5, 2.5]
