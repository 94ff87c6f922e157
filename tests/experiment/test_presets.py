"""The run files of the paper's streams say, for every method, what Tables 5 and 6 of arXiv:2310.08204 say."""

import re

import pytest
import torch
import yaml
from helpers.material import write_clip
from helpers.miniature import SMALL, audioset, vggsound
from typer.testing import CliRunner

from avcl.backbones.cavmae import CavMae
from avcl.cli.main import app
from avcl.config.build import components_of, method_settings
from avcl.config.bundled import bundled_files
from avcl.config.files import read_config
from avcl.scenarios.splits import read_categories

TABLE_5 = {  # of each setting the value for VS and, where it differs, for AS
    "er": {},
    "mir": {"candidates": 5},
    "derpp": {"alpha": (0.5, 1.0)},
    "gmed": {"alpha": 0.1, "beta": (0.05, 0.01), "gamma": 1.0},
    "cls-er": {
        "reg_weight": 0.1,
        "stable_ema_decay": 0.999,
        "plastic_ema_decay": 0.999,
        "stable_update_probability": 0.6,
        "plastic_update_probability": 0.8,
        "temperature": 0.05,  # not in the table: the authors' code
    },
    "lump": {"alpha": (0.1, 0.05)},
    "esmer": {
        "loss_ema_decay": 0.99,
        "loss_margin": 1.0,
        "reg_weight": (0.15, 0.2),
        "ema_decay": 0.999,
        "update_probability": 0.2,
        "std_margin": 1.0,  # not in the table: the authors' code
    },
    "stella": {"alpha": 0.5, "temperature": (0.4, 0.1), "keep_audio": 0.5, "keep_video": 0.5, "matching_weight": 1.0},
    # Table 3: built upon DER++, with STELLA's ratios; MATS scores video only
    "random": {"alpha": (0.5, 1.0), "keep_audio": 0.5, "keep_video": 0.5},
    "mats": {"alpha": (0.5, 1.0), "audio": "full", "keep_video": 0.5},
}
TABLE_5["stella-plus"] = TABLE_5["stella"]
WITHOUT_MEMORY = ("finetune", "multitask")
METHODS = (*TABLE_5, *WITHOUT_MEMORY)
TABLE_6 = {
    "memory": (2000, 5000),
    "epochs": (10, 15),
    "batch_size": (48, 36),
    "optimizer": "adam",
    "lr": 1e-4,
    "betas": [0.95, 0.999],
    "weight_decay": 5e-7,
    "warmup": 0,
    "clip_norm": None,
    "accumulate": 1,
    "precision": "fp16",
}
STREAMS = ("continual_vs", "continual_as")
PAPER = (*STREAMS, "continual_vs_shuffled", "continual_as_shuffled", "pretrain_vs", "pretrain_as")


def published(stream, method):
    """Sections ``strategy`` and ``learner`` by the tables."""
    place = STREAMS.index(stream)
    tables = ({**TABLE_5.get(method, {})}, {**TABLE_6})
    own, common = ({k: v[place] if isinstance(v, tuple) else v for k, v in table.items()} for table in tables)
    memory = common.pop("memory")
    if method not in WITHOUT_MEMORY:
        own |= {"memory": memory, "replay": None, "contrastive_scope": "joint"}
    return {"name": method, **own}, common


def compare(settings, stream, method):
    """Compare resolved settings with the tables; the buffer with its capacity."""
    strategy, learner = published(stream, method)
    told = {key: settings["strategy"][key] for key in strategy}
    if "memory" in told:
        assert told["memory"] == {"capacity": strategy["memory"], "budget_bytes": None, "dtype": "float32"}
        told["memory"] = strategy["memory"]
    assert told == strategy
    assert {key: settings["learner"][key] for key in learner} == learner


def dry_run(*words):
    return CliRunner().invoke(app, ["train", *words, "--dry-run", "--device", "cpu"])


@pytest.mark.parametrize("stream", STREAMS)
def test_the_backbone_is_the_papers(stream):
    name, *settings = read_config(bundled_files()[stream])["backbone"].items()
    assert name == ("name", "cav-mae")
    with torch.device("meta"):
        backbone = CavMae(**dict(settings))
    assert sum(p.numel() for p in backbone.parameters()) == 185_534_976  # 707.8 MiB in float32, as printed
    loss = backbone.mask_ratio, backbone.mae_weight, backbone.contrastive_weight, backbone.temperature
    assert loss == (0.8, 1.0, 0.1, 0.05)
    assert (backbone.dim, backbone.depth, backbone.fusion_depth, backbone.visible_of) == (768, 10, 2, "grid")


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_papers_settings(stream, method):
    raw = read_config(bundled_files()[stream], strategy=method)
    compare(method_settings(raw), stream, method)
    # whichever way it is named
    for sets in ([f"strategy={method}"], [f"strategy.name={method}"]):
        assert method_settings(read_config(bundled_files()[stream], sets)) == method_settings(raw)


@pytest.mark.parametrize(
    ("stream", "method", "tasks", "make"),
    [("continual_vs", "derpp", ["people", "sports"], vggsound), ("continual_as", "cls-er", ["vehicle"], audioset)],
)
def test_a_dry_run_prints_them(tmp_path, caplog, stream, method, tasks, make):
    root = make(tmp_path / "data", write_clip(tmp_path / "good.mp4", seconds=2, size=(64, 48)), tasks, train=3)
    small = [f"--set=scenario.{key}={value}" for key, value in {**SMALL, "root": root, "order": tasks}.items()]
    words = [*small, "--set=backbone.size=tiny", "--set=learner.workers=0"]
    done = dry_run(stream.replace("_", "-"), "--strategy", method, *words)
    assert done.exit_code == 0, done.output
    settings = yaml.safe_load(done.stdout)
    compare(settings, stream, method)
    assert "learner.precision: fp16 on a CPU, which may have to emulate it" in caplog.text
    assert re.search(rf"^# steps: .* of {settings['learner']['batch_size']} clips$", done.stdout, re.MULTILINE)


def test_a_dry_run_without_the_data_prints_what_does_not_depend_on_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = dry_run("continual-as", "--strategy", "gmed")
    assert done.exit_code == 2
    compare(yaml.safe_load(done.stdout), "continual_as", "gmed")
    assert done.stderr.endswith("avcl: scenario.root: 'audioset' is no folder; it must hold the lists and the clips\n")
    done = dry_run("continual-as", "--strategy", "gmd")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "      strategy: unknown strategy 'gmd'; did you mean 'gmed'?\n" in done.stderr


def test_the_other_orders_have_batch_36():
    for stream in STREAMS:
        plain, shuffled = (read_config(bundled_files()[f"{stream}{order}"]) for order in ("", "_shuffled"))
        assert shuffled["scenario"] == {**plain["scenario"], "order": "shuffled"}
        assert shuffled["learner"] == {**plain["learner"], "batch_size": 36}
        assert shuffled["methods"] == plain["methods"]
        assert "shuffled" in read_categories(stream).orders


def test_the_starts():
    sights, sounds = (read_config(bundled_files()[name]) for name in ("pretrain_vs", "pretrain_as"))
    assert sights["scenario"]["pretraining"] == "unused"
    assert sights["scenario"]["pretraining_lists"] == ["balanced_train_segments.csv"]
    assert (sounds["scenario"]["name"], sounds["scenario"]["pretraining"]) == ("continual-vs", "all")
    for raw in (sights, sounds):
        assert raw["strategy"] == "finetune" and raw["weights"] == "mae.safetensors"
        compare(method_settings({**raw, "learner": {**raw["learner"], "epochs": 10}}), "continual_vs", "finetune")
        assert raw["learner"]["epochs"] == 25
    for name, epochs in (("pretrain_vs", 15), ("pretrain_as", 8)):
        told = bundled_files()[name].read_text()
        assert "--strategy stella --frozen" in told and f"learner.epochs={epochs} --out" in told


@pytest.mark.parametrize("name", PAPER)
def test_every_value_has_its_source(name):
    lines = [line for line in bundled_files()[name].read_text().splitlines() if not line.startswith("#")]
    values = [line for line in lines if re.match(r" +[\w-]+: +[^&* ]", line) and "workers: 8" not in line]
    assert not [line for line in values if not re.search(r"# (T[5-7]|T6, code|code|text|as for VS)\b", line)]


def test_own_videos_take_the_same_settings():
    ours, theirs = (read_config(bundled_files()[name]) for name in ("videos", "continual_vs"))
    assert ours == {**theirs, "scenario": {"name": "folder", "root": "videos"}}


def test_a_run_file_keeps_what_it_shares():
    for method in METHODS:
        settings = components_of(read_config(bundled_files()["run"], strategy=method))["settings"]
        assert settings["strategy"]["name"] == method
        assert settings["strategy"].get("memory", {"capacity": 128})["capacity"] == 128
    assert settings["learner"]["lr"] == 1e-3
