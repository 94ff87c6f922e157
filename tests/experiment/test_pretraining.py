"""Before the stream: what trains in which stage, and on which clips."""

import csv

import pytest
import torch
from helpers.material import write_clip
from helpers.miniature import SMALL, vggsound
from typer.testing import CliRunner

from avcl.backbones.weights import load_weights
from avcl.cli.main import app
from avcl.errors import UserError
from avcl.experiment.pretraining import pretrain
from avcl.experiment.run import Run
from avcl.memory import Memory
from avcl.plugins.er import ER
from avcl.plugins.finetune import Finetune
from avcl.plugins.stella import Stella
from avcl.scenarios.continual_vs import ContinualVS
from avcl.scenarios.splits import key, read_categories
from avcl.testing import Noise, small_backbone


class WithMore(Noise):
    """Noise with clips to start from."""

    def pretraining_clips(self):
        return self.clips(7, "train")


def stella():
    return Stella(heads=4, chunk=2, memory=Memory(capacity=8))


def make_run(tmp_path, strategy, weights=None, scenario=None, **learner):
    return Run(
        scenario=scenario or WithMore(clips_per_task=8),
        backbone=small_backbone(),
        strategies=[strategy],
        folder=tmp_path / "run",
        learner={"epochs": 2, "batch_size": 4, "lr": 1e-2, **learner},
        weights=weights and load_weights(weights),
    )


def pretrained(path, strategy, frozen=False, **more):
    pretrain(make_run(path.parent, strategy, **more), path, frozen)
    return load_weights(path).states


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_first_stage_is_the_backbone_alone_and_the_second_leaves_it_where_it_was(tmp_path):
    alone = pretrained(tmp_path / "alone.safetensors", Finetune())
    assert alone.keys() == {"backbone"}
    both = pretrained(tmp_path / "both.safetensors", stella())
    assert both.keys() == {"backbone", "matching"}
    assert same(both["backbone"], alone["backbone"])  # to the bit: the matching module had no part in it
    assert not same(alone["backbone"], small_backbone().state_dict())


def test_the_second_stage_alone_trains_every_weight_of_the_matching_module_and_no_other(tmp_path):
    alone, both = tmp_path / "alone.safetensors", tmp_path / "both.safetensors"
    before = pretrained(alone, Finetune())["backbone"]
    after = pretrained(tmp_path / "then.safetensors", stella(), weights=alone, frozen=True)
    assert same(after["backbone"], before)
    assert same(after["matching"], pretrained(both, stella())["matching"])  # two commands are one
    new = make_run(tmp_path, stella()).learner().strategies[0].matching.state_dict()
    still = [name for name in new if torch.equal(new[name], after["matching"][name])]
    assert still == []


def test_the_second_stage_goes_on_from_a_matching_module_that_it_is_given(tmp_path):
    first, then = tmp_path / "first.safetensors", tmp_path / "then.safetensors"
    given = pretrained(first, stella())
    again = pretrained(then, stella(), weights=first, frozen=True, lr=0.0)
    assert same(again["matching"], given["matching"])


def test_clips_that_are_not_there_are_told(tmp_path):
    class Without(Noise):
        def pretraining_clips(self):
            return torch.utils.data.Subset(self.clips(0, "train"), [])

    told = "^scenario 'noise': none of its clips to pre-train on is there; a store holds them if it was prepared with"
    with pytest.raises(UserError, match=told):
        pretrain(make_run(tmp_path, Finetune(), scenario=Without(clips_per_task=8)), tmp_path / "x.safetensors")


def test_what_can_not_be_done_is_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"^strategy 'er' brings no module to train beside a frozen backbone; 'stella' "
    ):
        pretrain(make_run(tmp_path, ER(memory=Memory(capacity=4))), tmp_path / "x.safetensors", frozen=True)
    with pytest.raises(UserError, match=r"^scenario 'noise' has no clips to pre-train on; set weights to a file$"):
        pretrain(make_run(tmp_path, Finetune(), scenario=Noise()), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


# ---- VGGSound: the paper's set, and the authors' -------------------------------------------------------------


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Of two categories, three training clips and one test clip of the tasks' classes and of the others."""
    good = write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))
    root = tmp_path_factory.mktemp("vggsound")
    return vggsound(root, good, ["sports", "people"], train=3, test=1, others=True)


def classes(scenario, root):
    """The classes of the clips to pre-train on, and how many clips there are."""
    with open(root / "vggsound.csv", newline="") as file:
        names = {f"{video}_{int(second):06d}": name for video, second, name, _ in csv.reader(file)}
    sources = scenario.pretraining_clips().sources
    return {key(names[source.name]) for source in sources}, len(sources)


def spare(root, **settings):
    """A scenario of one task, people, and the names of its clips to pre-train on."""
    scenario = ContinualVS(root=str(root), order=["people"], train_per_class=1, **SMALL, **settings)
    return scenario, [source.name for source in scenario.pretraining_clips().sources]


def test_lists_to_pre_train_on_add_what_is_neither_trained_nor_evaluated_on_once(sounds):
    lines = (sounds / "vggsound.csv").read_text().splitlines()
    (sounds / "train.csv").write_text("\n".join(line for line in lines[:300] if line.endswith("train")))
    (sounds / "eval.csv").write_text("\n".join(line for line in lines if line.endswith("test")))
    more = [line.removesuffix("test") + "train" if line.endswith("test") else line for line in lines]
    (sounds / "more.csv").write_text("\n".join([*more, lines[-2], 'x,soon,"skiing",train', 'y,1,"skiing",train']))
    lists = {"train": "train.csv", "eval": "eval.csv", "pretraining": "authors"}
    scenario, names = spare(sounds, **lists, pretraining_lists=["more.csv"])
    used = {source.name for split in ("train", "eval") for source in scenario.sources(split)}
    every = {f"{video}_{int(second):06d}" for video, second, *_ in csv.reader(more)}
    assert set(names) == every - used
    assert len(names) == len(set(names))
    assert set(names) > set(spare(sounds, **lists)[1])
    left = [(item.name, item.reason) for item in scenario.absent if item.split == "pretraining"]
    assert left[-3:] == [
        (f"{lines[-2].split(',')[0]}_{int(lines[-2].split(',')[1]):06d}", "listed twice"),
        (f"{sounds}/more.csv:{len(more) + 2}", "bad row: start 'soon' is no number of seconds"),
        ("y_000001", "missing"),
    ]


def test_unused_classes_are_in_no_task_and_the_authors_set_is_larger(sounds):
    settings = {"root": str(sounds), "order": ["people"], "train_per_class": 1, **SMALL}
    categories = read_categories("continual_vs").tasks
    tasks = {entry.keys[0] for part in categories.values() for entry in part.classes}
    unused, clips = classes(ContinualVS(**settings, pretraining="unused"), sounds)
    assert unused.isdisjoint(tasks)
    assert len(unused) == sum(len(categories[task].gallery_classes) for task in ("sports", "people"))
    assert clips == 3 * len(unused)
    leaky, more = classes(ContinualVS(**settings, pretraining="authors"), sounds)
    assert leaky > unused
    both = [entry for task in ("people", "sports") for entry in categories[task].classes]
    assert leaky - unused == {entry.keys[0] for entry in both}
    assert more == clips + (2 + 3) * 20  # of people, all but the one clip of a class that is trained on; all of sports


def test_the_command_trains_both_stages_on_a_download(sounds, tmp_path):
    out, file = tmp_path / "start.safetensors", tmp_path / "vs.yaml"
    file.write_text(
        f"scenario: {{name: continual-vs, root: {sounds}, order: [people], pretraining: unused, "
        "frames: 2, height: 32, width: 32, times: 128, mels: 32, window: 1.0, seconds: 2.0}\n"
        "backbone: {name: cav-mae, size: tiny, dim: 48, depth: 1}\n"
        "strategy: {name: stella, heads: 4, memory: {capacity: 4}}\n"
        "learner: {epochs: 1, batch_size: 32}\n"
    )
    result = CliRunner().invoke(app, ["pretrain", str(file), "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert load_weights(out).states.keys() == {"backbone", "matching"}
    words = ["pretrain", str(file), "--out", str(out), "--set", "scenario.pretraining=null", "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stderr) == (
        2,
        "avcl: scenario 'continual-vs' has no clips to pre-train on; set scenario.pretraining, or weights to a file\n",
    )
