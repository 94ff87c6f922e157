"""AVSBench S4 in small: the published folders, with frames that show nothing but their masks, and a tone for each."""

import numpy as np
from PIL import Image

from helpers.material import sine, write_clip

SMALL = {"height": 32, "width": 32, "times": 128, "mels": 32}
COUNTS = {"train": 6, "val": 2, "test": 3}
CATEGORIES = ("lions_roaring", "race_car")
SIDE = 64


def box(clip, second):
    """Where the thing is that sounds, (SIDE, SIDE) bool: it moves to the right with time."""
    mask = np.zeros((SIDE, SIDE), bool)
    left, top = 4 + 8 * second + clip % 3, 8 + 5 * (clip % 5)
    mask[top : top + 20, left : left + 20] = True
    return mask


def avsbench(root, counts=COUNTS):
    """s4_meta_data.csv and s4_data below ``root``: red boxes on black, a mask for each, of training clips for one."""
    lines, number = ["name,start,category,split"], 0
    for split, clips in counts.items():
        for clip in range(clips):
            category, name = CATEGORIES[clip % 2], f"-vid_{number:06d}"
            lines.append(f"{name},{clip},{category},{split}")
            sound = root / "s4_data" / "audio_wav" / split / category / f"{name}.wav"
            tone = sine(5.0, 16000, 200.0 + 50.0 * number)
            write_clip(sound, video=None, audio="pcm_s16le", rate=16000, layout="mono", tracks=[{0: tone}])
            for second in range(5):
                mask = box(number, second)
                frame = np.zeros((SIDE, SIDE, 3), np.uint8)
                frame[..., 0] = 255 * mask
                save(root, "visual_frames", split, category, name, second, frame)
                if split != "train" or second == 0:
                    save(root, "gt_masks", split, category, name, second, 255 * mask.astype(np.uint8))
            number += 1
    (root / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return root


def save(root, kind, split, category, name, second, picture):
    path = root / "s4_data" / kind / split / category / name / f"{name}_{second + 1}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
