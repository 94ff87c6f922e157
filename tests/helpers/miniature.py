"""VGGSound, AudioSet and one's own videos in small: real lists, class names and file names, two seconds a clip."""

import csv
import json
import os
from itertools import count

import numpy as np

from avcl.scenarios.folder import Folder
from avcl.scenarios.splits import bundled, read_categories
from helpers.material import sine, truncate, write_clip

SMALL = {"frames": 2, "height": 32, "width": 32, "times": 128, "mels": 32, "window": 1.0, "seconds": 2.0}


def place(good, path, number=None):
    """A file like ``good`` at ``path``: a link, or with a ``number`` a copy of other bytes, in an unread MP4 box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if number is None:
        os.link(good, path)
    else:
        path.write_bytes(good.read_bytes() + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))
    return path


def gallery():
    """(id, second) of the published gallery by class, in its order."""
    lines = bundled(".csv")["continual_vs_gallery"].read_text().splitlines()
    rows = list(csv.reader(line for line in lines if not line.startswith("#")))
    found = {name: [] for _, name in rows}
    for file, name in rows:
        found[name].append((file[:11], int(file[12:18])))
    return found


def vggsound(root, good, tasks, train=2, test=1, others=False, distinct=False):
    """``vggsound.csv`` and ``video/<id>_<seconds>.mp4``, with so many clips of every class of ``tasks``.

    Clips to test on are the first ones of the published gallery.
    """
    categories, numbers, lines, published = read_categories("continual_vs"), count(), [], gallery()
    for task in tasks:
        listed = categories.tasks[task]
        for entry in listed.classes + (listed.gallery_classes if others else []):
            places = [("train", None)] * train + [("test", clip) for clip in published[entry.name][:test]]
            for split, clip in places:
                number = next(numbers)
                video, second = clip or (f"-vid_{number:06d}", number % 300)
                lines.append(f'{video},{second},"{entry.name}",{split}\n')
                name = f"{video}_{second:06d}.mp4"
                place(good, root / "video" / name, number if distinct else None)
    (root / "vggsound.csv").write_text("".join(lines))
    return root


def released(root, good, tasks):
    """``test.csv`` as VGGSound has it, and its files: after the published gallery's clips one more of every class."""
    published, rows = gallery(), []
    classes = [entry.name for task in tasks for entry in read_categories("continual_vs").tasks[task].classes]
    for place_in_class in range(6):
        for number, name in enumerate(classes[::-1]):
            video, second = [*published[name], (f"-more{number:06d}", 7)][place_in_class]
            file = f"{video}_{second:06d}.mp4"
            rows.append([file, name])
            place(good, root / "video" / file)
    with (root / "test.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return root


HEADER = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20383, num_segs=20383, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
"""


def audioset(root, good, tasks, train=2, test=1, distinct=False):
    """Segment lists, label file and ``<list>/<id>_<ms>_<ms>.mp4``; every clip also has a label of no task."""
    categories, numbers = read_categories("continual_as"), count()
    root.mkdir(parents=True, exist_ok=True)
    rows = "".join(f'{place},{entry.mid},"{entry.name}"\n' for place, (_, entry) in enumerate(categories.classes()))
    (root / "class_labels_indices.csv").write_text(f'index,mid,display_name\n0,/m/09x0r,"Speech"\n{rows}')
    for name, times in (("unbalanced_train_segments", train), ("eval_segments", test)):
        lines = [HEADER]
        for task in tasks:
            for entry in categories.tasks[task].classes:
                for number in (next(numbers) for _ in range(times)):
                    video = f"Y-{number:08d}"
                    lines.append(f'{video}, 30.000, 40.000, "/m/09x0r,{entry.mid}"\n')
                    place(good, root / name / f"{video}_30000_40000.mp4", number if distinct else None)
        (root / f"{name}.csv").write_text("".join(lines))
    return root


def videos(root):
    """Two tasks of eight clips, three of which cannot be used: silent, truncated, without audio."""
    for task in ("birds", "trains"):
        for number in range(8):
            tone = sine(2.0, 44100, 200.0 * (number + 1))
            clip = root / task / "near" / f"clip {number}.mp4"
            write_clip(clip, seconds=2, tracks=[{0: tone, 1: tone}], size=(96, 64))
    write_clip(root / "birds" / "near" / "clip 1.mp4", seconds=2, tracks=[{0: np.zeros(88200, np.float32)}])
    truncate(root / "birds" / "near" / "clip 2.mp4", 0.5)
    write_clip(root / "trains" / "near" / "clip 3.mp4", seconds=2, audio=None)
    return root


def of_videos(root, **settings):
    """The scenario of ``videos``."""
    return Folder(root=str(root), max_bad_share=0.5, **SMALL | settings)


def same(one, other):
    """Whether two stores hold the same bytes, and nothing is left over in them."""
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert json.loads((one / "store.json").read_text()) == json.loads((other / "store.json").read_text())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


AVE = ("Church bell", "Male speech, man speaking")


def ave(root, train=3, test=2):
    """AVE in small: so many three-second clips of each of two classes and split, which sound in one second or two."""
    lists = {"trainSet": train, "testSet": test}
    (root / "Annotations.txt").parent.mkdir(parents=True, exist_ok=True)
    every = []
    for number, (name, clips) in enumerate(lists.items()):
        rows = []
        for label, category in enumerate(AVE):
            for clip in range(clips):
                video, start = f"-v{number}{label}_{clip:06d}", clip % 2
                tone = sine(3.0, 44100, 300.0 + 900 * label + 50 * number + 10 * clip)
                tone[: 44100 * start] *= 0.01
                tone[44100 * (start + 2) :] *= 0.01
                write_clip(root / "AVE" / f"{video}.mp4", seconds=3, fps=8, size=(64, 48), tracks=[{0: tone, 1: tone}])
                rows.append(f"{category}&{video}&good&{start}&{start + 2}\n")
        (root / f"{name}.txt").write_text("".join(rows))
        every += rows
    (root / "Annotations.txt").write_text("Category&VideoID&Quality&StartTime&EndTime\n" + "".join(every))
    return root


def msrvtt(root, good, train=4, test=3):
    """MSR-VTT in small: lists of ids as texts, tables and JSON, and a copy of ``good`` for every video."""
    videos = [f"video{number}" for number in range(train + test)]
    for number, video in enumerate(videos):
        place(good, root / "videos" / "all" / f"{video}.mp4", number)
    one, two = videos[:train], videos[train:]
    (root / "train_list_miech.txt").write_text("\n".join(one) + "\n")
    (root / "test_list_miech.txt").write_text("\n".join(two) + "\n")
    (root / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"{video}\n" for video in one for _ in range(2)))
    rows = [f'ret{n},msr{n},{video},"a man, singing"\n' for n, video in enumerate(two)]
    (root / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "".join(rows))
    listed = [{"video_id": video, "split": "train" if video in one else "test", "category": 3} for video in videos]
    (root / "MSRVTT_data.json").write_text(json.dumps({"videos": listed, "sentences": []}))
    return root
