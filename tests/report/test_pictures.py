"""What is drawn of a clip: its own pixels in their place, what is known of its patches, and words that say so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.toys import NoiseWithTruth, clips
from matplotlib.text import Text
from PIL import Image

from avcl.report.panels import Shown
from avcl.report.pictures import Kept, forgetting_figure, selection_figure, write_figure
from avcl.selection import Choice, Selection
from avcl.testing.toys import small_backbone


def shown(truth=True):
    dataset = NoiseWithTruth().clips(0, "train")
    return Shown(clips([0], dtype=torch.float32), small_backbone().grid, 16, dataset.truth(0) if truth else None)


def kept(truth=True, pruned=None, rebuilt=True, correlation=None):
    one = shown(truth)
    importance = torch.arange(8.0)[None]
    video = Choice(importance, torch.tensor([[7, 6, 5, 0]]), correlation, pruned)
    audio = Choice.blind(torch.tensor([[0, 1, 2, 3]]), 8)
    seen = one.clip.take(torch.tensor([[7, 6]]), torch.tensor([[0]]))
    return Kept(one, Selection(video=video, audio=audio), seen, one.clip if rebuilt else None)


def words(figure):
    texts = [text.get_text() for text in figure.findobj(Text)]
    return [text for text in texts if text]


def test_pixels_lie_where_they_were_and_what_is_missing_is_left_empty():
    whole = shown()
    frames = NoiseWithTruth().clips(0, "train")[0]["frames"]  # (2, 3, 32, 32)
    image = whole.image("video")
    assert image.shape == (32, 64, 3)
    low, high = np.quantile(frames.numpy(), (0.01, 0.99))
    assert image[3, 40] == pytest.approx(np.clip((frames[1, :, 3, 8].numpy() - low) / (high - low), 0, 1), abs=1e-5)
    part = whole.clip.take(torch.tensor([[5]]), torch.tensor([[3]]))  # second frame, upper right; time 1, band 1
    empty = np.isnan(whole.image("video", part)[..., 0])
    assert not empty[:16, 48:].any() and empty.sum() == empty.size - 256
    empty = np.isnan(whole.image("audio", part))
    assert empty.shape == (32, 64) and not empty[16:, 16:32].any() and empty.sum() == empty.size - 256


def test_a_score_lies_over_its_patch():
    numbers = torch.arange(8.0)[None]
    assert shown().map("video", numbers).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert shown().map("audio", numbers).tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_a_picture_says_what_it_shows(tmp_path):
    pruned, correlation = torch.tensor([[True] + [False] * 7]), torch.rand(1, 8)
    figure = selection_figure([kept(pruned=pruned, correlation=correlation)] * 2, "What x selects")
    said = words(figure)
    for head in ("clip", "importance", "correlation with the past", "kept", "seen by the encoder", "What x selects"):
        assert head in said
    assert {"4 of 8 patches", "clip 2\nframes", "pruned: belongs to the past", "AUC 0.50"} <= set(said)
    assert "AUC 0.25" in said, "patches 0 and 4 of 0..7: of twelve pairs three"
    assert any("truth" in text for text in said)
    image = write_figure(figure, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as written:
        assert written.size == image.size
    assert np.asarray(image).std() > 10


def test_what_a_method_does_not_have_is_not_drawn():
    said = words(selection_figure([kept(truth=False, rebuilt=False)], "x"))
    assert not [text for text in said if text.startswith(("AUC", "truth", "pruned", "correlation", "reconstructed"))]
    assert "kept" in said


def test_attention_is_drawn_from_a_clips_own_task_on():
    importance = torch.rand(1, 8)

    def row(*correlations):
        return [{"video": (importance, c), "audio": (importance, float("nan"))} for c in correlations]

    figure = forgetting_figure([(shown(), row(1.0, 0.25)), (shown(), row(1.0))], ("one", "two"), "Where x looked")
    said = words(figure)
    assert {"after task 1\none", "after task 2\ntwo", "a clip of\none", "a clip of\ntwo", "r = 0.25"} <= set(said)
    assert said.count("just learned") == 4
    assert not any("nan" in text for text in said)


def test_an_empty_mask_has_no_outline(tmp_path):
    truth = SimpleNamespace(mask=torch.zeros(2, 32, 32, dtype=torch.bool), interval=(0, 0))
    one = kept()
    still = Kept(Shown(one.shown.clip, one.shown.grid, 16, truth), one.selection, one.seen, None)
    write_figure(selection_figure([still], "x"), tmp_path / "a.png")
