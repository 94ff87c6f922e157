"""Builds VGGSound and AudioSet in small: the real lists, class names and file names, with two seconds of video."""

import os
from itertools import count

from avcl.scenarios.splits import read_categories

SMALL = {"frames": 2, "height": 32, "width": 32, "times": 128, "mels": 32, "window": 1.0, "seconds": 2.0}


def place(good, path, number=None):
    """A file like ``good`` at ``path``: a link, or with a ``number`` a copy of other bytes, in an unread MP4 box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if number is None:
        os.link(good, path)
    else:
        path.write_bytes(good.read_bytes() + (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))
    return path


def vggsound(root, good, tasks, train=2, test=1, others=False, distinct=False):
    """``vggsound.csv`` and ``video/<id>_<seconds>.mp4``, with so many clips of every class of ``tasks``."""
    categories, numbers, lines = read_categories("continual_vs"), count(), []
    for task in tasks:
        for entry in categories.tasks[task] + (categories.others[task] if others else ()):
            for split, times in (("train", train), ("test", test)):
                for number in (next(numbers) for _ in range(times)):
                    video = f"-vid_{number:06d}"
                    lines.append(f'{video},{number % 300},"{entry.name}",{split}\n')
                    name = f"{video}_{number % 300:06d}.mp4"
                    place(good, root / "video" / name, number if distinct else None)
    (root / "vggsound.csv").write_text("".join(lines))
    return root


HEADER = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=20383, num_segs=20383, num_unique_labels=527, num_positive_labels=51804
# YTID, start_seconds, end_seconds, positive_labels
"""


def audioset(root, good, tasks, train=2, test=1, distinct=False):
    """Segment lists, label file and ``<list>/<id>_<ms>_<ms>.mp4``; every clip also has a label of no task."""
    categories, numbers = read_categories("continual_as"), count()
    root.mkdir(parents=True, exist_ok=True)
    every = [entry for part in (categories.tasks, categories.others) for group in part.values() for entry in group]
    rows = "".join(f'{place},{entry.mid},"{entry.name}"\n' for place, entry in enumerate(every))
    (root / "class_labels_indices.csv").write_text(f'index,mid,display_name\n0,/m/09x0r,"Speech"\n{rows}')
    for name, times in (("unbalanced_train_segments", train), ("eval_segments", test)):
        lines = [HEADER]
        for task in tasks:
            for entry in categories.tasks[task]:
                for number in (next(numbers) for _ in range(times)):
                    video = f"Y-{number:08d}"
                    lines.append(f'{video}, 30.000, 40.000, "/m/09x0r,{entry.mid}"\n')
                    place(good, root / name / f"{video}_30000_40000.mp4", number if distinct else None)
        (root / f"{name}.csv").write_text("".join(lines))
    return root
