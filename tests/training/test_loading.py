"""What a data set or a backbone gets wrong is said at its first batch, in one line; nothing trains silently on it."""

import dataclasses
import multiprocessing
import sys

import pytest
import torch
from helpers.toys import small_learner
from torch.utils.data import Dataset

from avcl.compat import benchmark_from_datasets
from avcl.errors import PluginError, UserError
from avcl.plugins.finetune import Finetune
from avcl.scenario import as_avalanche
from avcl.testing import Noise, small_backbone
from avcl.training.learner import Learner
from avcl.training.loader import Loader


class Wrong(Dataset):
    """The clips of Noise, each changed by ``change``."""

    def __init__(self, change):
        self.clips, self.change = Noise().clips(0, "train"), change

    def __len__(self):
        return 8

    def __getitem__(self, number):
        return self.change(self.clips[number])


def broken(item):
    raise KeyError("frames")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda item: item | {"frames": item["frames"].byte()}, r"scenario: frames are torch.uint8; must be norm"),
        (lambda item: item | {"mel": item["mel"].mT}, r"scenario: mel are \(1, 32, 64\); .* built for \(1, 64, 32\)"),
        (lambda item: {"frames": item["frames"]}, r"scenario: clips have no 'mel', only 'frames'"),
        (lambda item: (item["frames"], item["mel"]), r"scenario: clips are a list; must be mappings of frames"),
        (broken, r"object 'Wrong' .* failed in __getitem__: KeyError: 'frames'"),
    ],
)
def test_items_that_are_no_clips(change, text):
    torch.multiprocessing.set_sharing_strategy("file_system")
    stream = benchmark_from_datasets(train=[as_avalanche(Wrong(change))]).train_stream
    for workers in (0, 1) if change is broken else (0,):
        with pytest.raises(UserError, match=text) as caught:
            small_learner(Finetune(), workers=workers).train(stream)
        assert isinstance(caught.value, PluginError) == (change is broken)


def test_a_loss_term_that_is_no_number_a_clip():
    backbone = small_backbone()
    forward = backbone.forward

    def averaged(clip, masks=None):
        output = forward(clip, masks)
        return dataclasses.replace(output, terms={**output.terms, "mae_audio": output.terms["mae_audio"].mean()})

    backbone.forward = averaged
    learner = Learner(backbone=backbone, strategy=Finetune(), batch_size=4)
    with pytest.raises(UserError, match=r"backbone: the loss term 'mae_audio' is \(\); must be \(4,\), one a clip"):
        learner.train(Noise().benchmark().train_stream[0])


def test_a_loader_process_that_finds_its_parent_gone_ends():
    """Killed between asking for it and its first step: torch's own watch begins later."""
    start = multiprocessing.get_context("fork").Process
    begin = Loader([1, 2], num_workers=1).worker_init_fn

    def another_ones_child():
        child = start(target=begin, args=(0,))
        child.start()
        child.join()
        sys.exit(10 + child.exitcode)

    for target, given, code in ((begin, (0,), 0), (another_ones_child, (), 11)):
        process = start(target=target, args=given)
        process.start()
        process.join()
        assert process.exitcode == code
