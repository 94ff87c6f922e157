"""Continual-VS and Continual-AS from lists and files: the numbers that the class lists imply."""

import json
import logging

import pytest
import yaml
from helpers.material import write_clip
from helpers.miniature import SMALL, audioset, gallery, place, released, vggsound
from PIL import Image

from avcl.errors import SettingsError, UserError
from avcl.registry import registry
from avcl.scenarios.continual_as import ContinualAS
from avcl.scenarios.continual_vs import ContinualVS
from avcl.scenarios.listed import Listed
from avcl.scenarios.splits import read_categories

SHUFFLED = ("music", "others_part1", "home_nature", "sports", "others_part2", "vehicle", "animals", "people")
SIZES = [35, 14, 9, 27, 34, 18, 24]


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Two seconds that can be used."""
    return write_clip(tmp_path_factory.mktemp("good") / "good.mp4", seconds=2, size=(64, 48))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory, good):
    """VGGSound in small: 309 classes of three training clips and two test clips."""
    tasks = read_categories("continual_vs").tasks
    return vggsound(tmp_path_factory.mktemp("vggsound"), good, tasks, train=3, test=2, others=True)


@pytest.fixture(scope="module")
def segments(tmp_path_factory, good):
    """AudioSet in small: 161 classes of two training clips and a test clip."""
    return audioset(tmp_path_factory.mktemp("audioset"), good, read_categories("continual_as").tasks)


def mistake(cls, **settings):
    with pytest.raises(SettingsError) as wrong:
        cls(**settings)
    return str(wrong.value)


def per_task(scenario, split):
    return [sum(s.task == task for s in scenario.sources(split)) for task in range(len(scenario.task_names))]


# ---- class lists -------------------------------------------------------------------------------------------


def test_the_class_lists_are_the_papers():
    sight = read_categories("continual_vs")
    assert [len(task.classes) for task in sight.tasks.values()] == [20] * 8
    assert sum(len(task.gallery_classes) for task in sight.tasks.values()) == 149
    assert tuple(sight.orders["shuffled"]) == SHUFFLED
    sound = read_categories("continual_as")
    assert [len(sound.tasks[name].classes) for name in sound.orders["main"]] == SIZES
    assert sound.orders["main"] == ["human", "vehicle", "nature", "animal", "others", "home", "music"]


@pytest.mark.parametrize("name", ["continual_vs", "continual_as"])
def test_a_class_has_one_task(name):
    categories = read_categories(name)
    named = [entry.name for _, entry in categories.classes()]
    assert len(named) == len(set(named))
    assert {frozenset(order) for order in categories.orders.values()} == {frozenset(categories.tasks)}


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"tasks": {"a": ["x"], "b": ["X"]}}, "tasks.b: class 'X' is already in tasks.a"),
        ({"tasks": {"a": []}}, "tasks.a.classes: invalid value []: must not be empty"),
        ({"tasks": {"a": "x"}}, "tasks.a: invalid value 'x': must be a list of classes"),
        ({"tasks": {"a": [3]}}, "tasks.a.classes.0: invalid value 3: must be a name, or {name, mid}"),
        ({"tasks": {"a": {"class": ["x"]}}}, "tasks.a.class: unknown key; did you mean 'classes'?"),
        ({"tasks": {"birds": ["x"]}, "orders": {"o": ["bird"]}}, "orders.o: 'bird' is no task; did you mean 'birds'?"),
        ({"tasks": {"a": ["x"]}, "orders": {"o": ["a", "a"]}}, "orders.o: 'a' is given 2 times"),
        ({"complete": "no"}, "complete: invalid value 'no': must be true or false"),
        ({"tasks": {1: ["x"]}}, "tasks.1: invalid value 1: must be text, in quotes"),
        ({"tasks": {True: ["x"]}}, "tasks.1: invalid value True: must be text, in quotes"),
        ({"tasks": {None: ["x"]}}, "tasks.None: invalid value None: must be text, in quotes"),
        ({"tasks": {"a": ["x"]}, "orders": {1: ["a"]}}, "orders.1: invalid value 1: must be text, in quotes"),
        ({"tasks": {"2": ["x"]}, "orders": {"o": [2]}}, "orders.o.0: invalid value 2: must be text, in quotes"),
        (
            {"tasks": {"a": [{"name": "x", "mid": 5}]}},
            "tasks.a.classes.0.mid: invalid value 5: must be text, in quotes",
        ),
        ({"task": {}}, "task: unknown key; did you mean 'tasks'?"),
        ({}, "tasks: required, but not given"),
    ],
)
def test_mistakes_of_a_split_file_are_named(tmp_path, tree, told):
    path = tmp_path / "split.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError) as error:
        read_categories(str(path))
    lines = str(error.value).splitlines()
    assert f"{path}: {told}" in lines
    assert all(line.startswith(f"{path}: ") for line in lines)


# ---- Continual-VS ------------------------------------------------------------------------------------------


def test_they_are_found_as_plugins():
    for name, cls in (("continual-vs", ContinualVS), ("continual-as", ContinualAS), ("listed", Listed)):
        assert registry().find("scenarios", name) is cls


def test_continual_vs_has_the_numbers_of_its_list(sounds):
    scenario = ContinualVS(root=str(sounds), train_per_class=2, eval_per_class=1, **SMALL)
    assert scenario.task_names[0] == "sports"
    assert per_task(scenario, "train") == [40] * 8
    assert per_task(scenario, "eval") == [20] * 8
    assert len({s.label for s in scenario.sources("train")}) == 160
    names = {scenario.class_names[s.label] for s in scenario.sources("eval") if s.task == 1}
    assert "playing violin, fiddle" in names
    assert ContinualVS(root=str(sounds)).train_per_class == 400
    assert per_task(ContinualVS(root=str(sounds)), "train") == [60] * 8
    assert scenario.absent == []


def test_the_published_gallery_comes_by_its_ids():
    tasks, published = read_categories("continual_vs").tasks.values(), gallery()
    used = [entry.name for task in tasks for entry in task.classes]
    others = [entry.name for task in tasks for entry in task.gallery_classes]
    assert sorted(published) == sorted(used + others)
    assert {len(set(clips)) for clips in published.values()} == {5}
    assert len({clip for clips in published.values() for clip in clips}) == 1545
    assert len({clip for name in used for clip in published[name]}) == 800
    first = ("2P1uwGQfaPA", "DUlxiX4ri1Q", "wCPEfqnHzNc", "bh3M0wYsW1k", "7GJ9EGKOxSI")  # in the released test.csv
    assert tuple(video for video, _ in published["alarm clock ringing"]) == first


def test_a_folder_of_files_and_the_released_list_give_the_published_gallery(tmp_path, good):
    tasks = ["music", "sports"]
    root = released(vggsound(tmp_path / "root", good, tasks, train=1, test=0), good, tasks)
    by_ids, by_list = (ContinualVS(root=str(root), order=tasks, **more) for more in ({}, {"eval": "test.csv"}))
    published = gallery()
    for scenario in (by_ids, by_list):
        assert per_task(scenario, "eval") == [100, 100]
        for label, name in enumerate(scenario.class_names):
            found = [source.name for source in scenario.sources("eval") if source.label == label]
            assert found in ([], [f"{video}_{second:06d}" for video, second in published[name]])
        assert [item for item in scenario.absent if item.split == "eval"] == []
    video, second = published["skiing"][1]
    next(root.rglob(f"{video}*")).rename(root / f"Y{video}_{second}.000_{second + 10}.000.mp4")  # another downloader's
    assert per_task(ContinualVS(root=str(root), order=tasks), "eval") == [100, 100]
    next(root.rglob(f"Y{video}*")).unlink()
    by_ids, by_list = (ContinualVS(root=str(root), order=tasks, **more) for more in ({}, {"eval": "test.csv"}))
    assert per_task(by_ids, "eval") == [100, 99]  # no other takes its place
    assert by_ids.absent == [("eval", "sports", f"{video}_{second:06d}", "missing")]
    assert per_task(by_list, "eval") == [100, 100]
    assert per_task(ContinualVS(root=str(root), train="test.csv", order=tasks), "train") == [120, 119]


def test_the_first_clips_of_a_class_are_taken(sounds):
    scenario = ContinualVS(root=str(sounds), order=["sports"], train_per_class=2)
    assert [s.name for s in scenario.sources("train")[:4]] == [
        *("-vid_000000_000000", "-vid_000001_000001", "-vid_000005_000005", "-vid_000006_000006")
    ]


def test_the_gallery_of_all_has_the_other_classes_too(sounds):
    scenario = ContinualVS(root=str(sounds), gallery="all", eval_per_class=1)
    assert len(scenario.sources("eval")) == 309
    assert [source.label in scenario.gallery_only for source in scenario.sources("eval")].count(True) == 149
    assert scenario.gallery_only.isdisjoint(source.label for source in scenario.sources("train"))
    assert ContinualVS(root=str(sounds)).gallery_only == frozenset()
    assert per_task(scenario, "eval") == [26, 63, 30, 49, 74, 22, 20, 25]
    assert per_task(scenario, "train") == [60] * 8


def test_order_changes_tasks_and_nothing_else(sounds):
    main, shuffled = (ContinualVS(root=str(sounds), order=order) for order in ("main", "shuffled"))
    some = ContinualVS(root=str(sounds), order=["people", "sports"])
    assert shuffled.task_names == SHUFFLED
    assert some.task_names == ("people", "sports")
    assert per_task(some, "train") == [60, 60]
    facts = {s.name: (s.index, s.label, main.task_names[s.task]) for s in main.sources("train")}
    assert len({index for index, *_ in facts.values()}) == 480
    for other in (shuffled, some):
        for s in other.sources("train"):
            assert (s.index, s.label, other.task_names[s.task]) == facts[s.name]


def test_missing_bad_unknown_and_repeated_rows_are_counted(tmp_path, good, caplog):
    root = vggsound(tmp_path / "root", good, ["sports", "music"], train=2)
    lost = next(root.rglob("-vid_000000*"))
    lost.unlink()
    with (root / "vggsound.csv").open("a") as file:
        file.write('gone,7,"skiing",train\nx,soon,"skiing",train\ny,1,"sking",train\n-vid_000001,1,"skiing",train\n')
    with caplog.at_level(logging.WARNING, "avcl"):
        scenario = ContinualVS(root=str(root), order=["sports", "music"], eval_per_class=1)
        assert per_task(scenario, "train") == [39, 40]
    absent = [(item.split, item.task, item.name, item.reason) for item in scenario.absent]
    assert ("train", "sports", "-vid_000000_000000", "missing") in absent
    assert ("train", "sports", "gone_000007", "missing") in absent
    assert ("train", "", "y_000001", "unknown class 'sking'") in absent
    assert ("train", "", "-vid_000001_000001", "listed twice") in absent
    assert "left out, missing: 2 clips; the first: -vid_000000_000000" in caplog.text
    assert any("soon" in reason for *_, reason in absent)


def test_nothing_found_says_what_files_are_called(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"])
    for path in (root / "video").iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match=r"none of the 40 clips of train \(vggsound.csv\) is below .* <id>_<seconds in 6"
    ):
        ContinualVS(root=str(root)).sources("train")


def test_the_whole_video_does_not_pass_for_seconds_of_it(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"])
    clip = next(root.rglob("-vid_000000*"))
    clip.rename(clip.with_name("-vid_000000.mp4"))
    scenario = ContinualVS(root=str(root), order=["sports"], eval_per_class=1)
    assert per_task(scenario, "train") == [39]
    assert [(item.name, item.reason) for item in scenario.absent] == [("-vid_000000_000000", "missing")]


def test_folders_may_be_links_even_in_a_circle(tmp_path, good):
    root = vggsound(tmp_path / "root", good, ["sports"])
    (root / "video").rename(tmp_path / "elsewhere")
    (root / "video").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert per_task(ContinualVS(root=str(root), order=["sports"]), "train") == [40]


def test_one_list_is_both_only_where_it_says_which_clip_is_for_which(tmp_path, segments, sounds):
    one, link = "eval_segments.csv", "./eval_segments.csv"
    with pytest.raises(UserError) as error:
        ContinualAS(root=str(segments), train=one, eval=link).sources("train")
    assert str(error.value) == (
        "continual-as: 'eval_segments.csv' is both train and eval, but does not say train or test for every clip; "
        "name two lists"
    )
    assert per_task(ContinualVS(root=str(sounds), eval="./vggsound.csv"), "train") == [60] * 8


def test_mistakes_of_settings_are_named(sounds, tmp_path):
    root = str(sounds)
    assert mistake(ContinualVS, root=str(tmp_path / "no")).startswith("root: ")
    assert mistake(ContinualVS, root=root, order="mian") == (
        "order: 'mian' is no order of 'continual_vs'; did you mean 'main'?"
    )
    assert mistake(ContinualVS, root=root, order=["sport"]) == (
        "order: 'sport' is no task of 'continual_vs'; did you mean 'sports'?"
    )
    assert mistake(ContinualVS, root=root, order=["music", "music"]) == "order: 'music' is given 2 times"
    assert mistake(ContinualVS, root=root, train="no.csv").startswith("train: no file ")
    assert mistake(ContinualVS, root=root, eval="continual-vs-gallery").endswith("did you mean 'continual_vs_gallery'?")
    assert mistake(ContinualVS, root=root, split="no.yaml").startswith("split: no.yaml: no such file")
    assert mistake(ContinualVS, root=root, gallery="some").startswith("gallery: invalid value 'some': must be ")


def test_pretraining_leaves_out_the_tasks_classes_or_only_what_they_train_on(sounds):
    settings = {"root": str(sounds), "train_per_class": 2} | SMALL
    assert ContinualVS(**settings).pretraining_clips() is None
    unused = ContinualVS(**settings, pretraining="unused").pretraining_clips()
    authors = ContinualVS(**settings, pretraining="authors")
    assert len(unused) == 3 * 149
    assert len(authors.pretraining_clips()) == 3 * 149 + 160
    trained = {s.index for s in authors.sources("train")}
    assert not trained & {s.index for s in authors.pretraining_clips().sources}
    every = ContinualVS(**settings, pretraining="all")
    assert len(every.pretraining_clips()) == 3 * 309
    assert len(every.records()) == len(authors.records())  # a clip of both is kept once


# ---- Continual-AS ------------------------------------------------------------------------------------------


def test_continual_as_has_the_numbers_of_its_lists(segments):
    scenario = ContinualAS(root=str(segments), **SMALL)
    assert scenario.task_names[0] == "human"
    assert per_task(scenario, "train") == [70, 28, 18, 54, 68, 36, 48]
    assert per_task(scenario, "eval") == SIZES
    assert scenario.absent == []
    shuffled = ContinualAS(root=str(segments), order="shuffled")
    assert per_task(shuffled, "train") == [18, 70, 36, 28, 48, 54, 68]


def test_a_clip_of_two_tasks_is_left_out(tmp_path, good):
    root = audioset(tmp_path / "root", good, ["human", "animal"])
    path = root / "unbalanced_train_segments.csv"
    text = path.read_text()
    bark, oink, snoring = "/m/05tny_", "/t/dd00018", "/m/01d3sd"
    text = text.replace(f'"/m/09x0r,{bark}"', f'"{bark},{snoring}"', 1).replace(f",{bark}", f",{bark},{oink}", 1)
    path.write_text(text + 'q, 0.000, 10.000, "/m/nothing"\n')
    scenario = ContinualAS(root=str(root), order=["animal"])  # however few tasks are asked for
    assert per_task(scenario, "train") == [53]
    assert [(item.task, item.reason) for item in scenario.absent] == [
        ("animal", "of two tasks: animal and human"),
        ("", "unknown class '/m/nothing'"),
    ]


def test_a_clip_of_a_task_class_is_no_clip_of_the_larger_gallery_alone(tmp_path, good):
    root = audioset(tmp_path / "root", good, ["music"], train=1)
    path, instrument, banjo = root / "eval_segments.csv", "/m/04szw", "/m/018j2"
    text = path.read_text().replace(f"/m/09x0r,{banjo}", f"{instrument},{banjo}")
    path.write_text(text.replace("/m/09x0r,/m/0jtg0", instrument))  # of a sitar it is not told
    scenario = ContinualAS(root=str(root), order=["music"], gallery="all")
    alone = [source.label in scenario.gallery_only for source in scenario.sources("eval")]
    assert (alone[:2], sum(alone)) == ([False, True], 1)


def test_a_split_of_ones_own(segments, tmp_path):
    split = tmp_path / "my split.yaml"
    split.write_text("tasks:\n  dogs: [Bark, Howl]\n  water: [{mid: /m/0j6m2, name: Brook}, Waterfall]\n")
    settings = {"train": "unbalanced_train_segments.csv", "eval": "eval_segments.csv"}
    labels = {"labels": "class_labels_indices.csv"}
    scenario = Listed(root=str(segments), split=str(split), **settings, **labels)
    assert scenario.class_names == ("Bark", "Howl", "Brook", "Waterfall")
    assert (scenario.task_names, per_task(scenario, "train")) == (("dogs", "water"), [4, 4])


def test_a_class_without_clips_is_named(segments, tmp_path, caplog):
    (tmp_path / "split.yaml").write_text("tasks:\n  dogs: [Bark, Hwol]\n")
    lists = {"train": "unbalanced_train_segments.csv", "eval": "eval_segments.csv"}
    with caplog.at_level(logging.WARNING, "avcl"):
        labels = {"labels": "class_labels_indices.csv"}
        scenario = Listed(root=str(segments), split=str(tmp_path / "split.yaml"), **lists, **labels)
        assert per_task(scenario, "train") == [2]
    assert "1 of 2 classes have no clip of train; the first: Hwol" in caplog.text


# ---- clips that were taken apart ---------------------------------------------------------------------------


def test_lists_of_cav_mae_and_of_stella_read_as_the_videos_do(tmp_path, good):
    sound = write_clip(tmp_path / "sound.wav", video=None, audio="pcm_s16le", seconds=4, rate=16000, layout="mono")
    data = []
    for number, label in enumerate(("vgg_1", "vgg_15", "vgg_16")):
        for k in range(4):
            for path in (tmp_path / f"frames/frame_{k}/v{number}.jpg", tmp_path / f"f{number}/frame_{k}.jpg"):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (60 * k, 0, 0)).save(path)
        data.append({"video_id": f"v{number}", "wav": sound.name, "video_path": "frames", "labels": label})
    for name in ("train", "eval"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": data}))
    rows = [f"{n},v{n},f{n},sound.wav,{entry['labels']},x\n" for n, entry in enumerate(data)]
    for name in ("train", "eval"):
        (tmp_path / f"{name}.csv").write_text("".join(rows))
    small = SMALL | {"window": 2.0, "seconds": 4.0}
    lists = {"train": "train.json", "eval": "eval.json", "order": ["sports", "music"]}
    scenario = ContinualVS(root=str(tmp_path), **lists, **small)
    assert per_task(scenario, "train") == [2, 1]
    item = scenario.clips(0, "train")[0]
    assert item["frames"].shape == (2, 3, 32, 32)
    assert item["frames"][0, 0].mean() < item["frames"][1, 0].mean()  # seconds 1 and 2
    lists |= {"train": "train.csv", "eval": "eval.csv"}
    again = ContinualVS(root=str(tmp_path), **lists, **(small | {"window": 0.25, "seconds": 4.0}))
    assert [(s.name, s.label) for s in again.sources("eval")] == [(s.name, s.label) for s in scenario.sources("eval")]
    assert again.clips(0, "train")[0]["frames"].shape == (2, 3, 32, 32)
    assert again.fingerprint == scenario.fingerprint  # the same clips


def test_lists_of_cav_mae_and_of_stella_find_video_files_by_id_and_second(tmp_path, good):
    clips = {"vgg_1": "0_8-g2rof7E_000049", "vgg_15": "4BUKAcdGfaI_000009", "vgg_16": "-Tok_g_jgE0_000268"}
    for stem in clips.values():
        place(good, tmp_path / "video" / f"{stem}.mp4")
    place(good, tmp_path / "video" / "4BUKAcdGfaI_000019.mp4")  # other seconds, so that the id alone says too little
    entry = {"wav": "gone.wav", "video_path": "gone"}
    for name, ids in (("train", clips.values()), ("eval", [stem[:11] for stem in clips.values()])):
        data = [{"video_id": video, "labels": mid, **entry} for mid, video in zip(clips, ids, strict=True)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"data": data}))
        frames = [f"{stem[:11]}_{int(stem[12:])}000_{int(stem[12:]) + 10}000" for stem in clips.values()]
        rows = zip(clips, ids, frames, strict=True)
        lines = [f"{n},{video},data/{folder},gone.mp3,{mid},x\n" for n, (mid, video, folder) in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text("".join(lines))
    make = lambda ending: ContinualVS(  # noqa: E731
        root=str(tmp_path), train=f"train.{ending}", eval=f"eval.{ending}", order=["sports", "music"]
    )
    found = {name: [(s.path, s.task) for s in make("csv").sources(name)] for name in ("train", "eval")}
    assert (
        found["train"]
        == found["eval"]
        == [
            (str(tmp_path / "video" / f"{stem}.mp4"), task)
            for stem, task in zip(clips.values(), (0, 0, 1), strict=True)
        ]
    )
    again = make("json")
    assert [(s.path, s.task) for s in again.sources("train")] == found["train"]
    assert [(s.path, s.task) for s in again.sources("eval")] == [found["eval"][0], found["eval"][2]]
    assert again.absent == [("eval", "sports", "4BUKAcdGfaI", "missing")]


def test_a_label_file_names_the_mids_of_the_gallery(tmp_path, good):
    (tmp_path / "labels.csv").write_text(
        "index,mid,display_name\n225,vgg_225,playing tennis\n180,vgg_180,bee_ wasp_ etc. buzzing\n"
    )
    Image.new("RGB", (40, 40)).save(tmp_path / "frame_0.jpg")
    write_clip(tmp_path / "sound.wav", video=None, audio="pcm_s16le", seconds=1, rate=16000, layout="mono")
    rows = [f"{n},v{n},.,sound.wav,{mid},x\n" for n, mid in enumerate(("vgg_225", "vgg_180", "vgg_1", "vgg_999"))]
    for name in ("train", "eval"):
        (tmp_path / f"{name}.csv").write_text("".join(rows))
    lists = {"train": "train.csv", "eval": "eval.csv", "labels": "labels.csv"}
    scenario = ContinualVS(root=str(tmp_path), **lists, gallery="all")
    assert [scenario.class_names[s.label] for s in scenario.sources("eval")] == [
        *("playing tennis", "bee, wasp, etc. buzzing", "basketball bounce")
    ]
    assert [s.name for s in scenario.sources("train")] == ["v2"]
    assert {item.reason for item in scenario.absent} == {"unknown class 'vgg_999'"}
