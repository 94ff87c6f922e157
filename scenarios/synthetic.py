"""A rendered stream: moving objects, one of them sounding, and an audio-visual correspondence that changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.random import Generator
from pydantic import Field, NonNegativeFloat, NonNegativeInt
from torch import Tensor
from torch.utils.data import Dataset

from avcl.clip import Shape
from avcl.data.preprocessing import Preprocessing
from avcl.hookspecs import hookimpl
from avcl.scenario import Scenario, Split, augmentation
from avcl.scenarios import _clutter as clutter
from avcl.scenarios import _render as render
from avcl.settings import Fraction, Seed, Share

Side = Annotated[int, Field(ge=16, le=2048)]
Count = Annotated[int, Field(ge=1, le=1000)]
Many = Annotated[int, Field(ge=0, le=10**7)]
Some = Annotated[int, Field(ge=1, le=10**6)]
SPLITS = ("train", "eval", "pretraining", "statistics")
TUNING = 2**30
"""Number of the first clip for tuning: more than there are to report on, whatever the settings."""


@dataclass(frozen=True)
class Truth:
    """What a model never gets to see.

    ``mask (T, H, W)`` bool: pixels of the sounding object · ``interval``: first mel frame of the sound and the
    first after it · ``level (times, mels)``: the sound alone, before noise and normalisation · ``sight``,
    ``sound``: the factors.
    """

    mask: Tensor
    interval: tuple[int, int]
    level: Tensor
    sight: render.Sight
    sound: render.Sound


@dataclass(kw_only=True)
class Synthetic(Scenario):
    """Audio-video clips rendered on the fly, 1 to 2 ms each: no download, and the truth is known.

    One striped disc sounds, others are silent; all move over a moving background. The angle of the stripes is
    the class (the *carrier*, which all tasks share), the grey between them the family of classes, which is
    the task. The sound is made straight in the log-mel domain: harmonics with the timbre of the class, whose
    pitch follows the disc's hue, brightness and length its size, onset its place and beat its motion. So a
    pair can be found, and the class alone does not tell it. Each task has a law of its own from hue to pitch and
    from carrier to timbre: learning one overwrites the others. A pre-training stage has the
    carriers and families between those of the tasks, and one law, in the middle of theirs.

    Args:
        tasks: Tasks of the stream.
        classes: Classes per task.
        train_clips: Training clips per class.
        eval_clips: Evaluation clips per class, the same in every epoch and run.
        pretraining: Pre-training clips in all; 0 for no pre-training stage.
        frames: Frames of a clip.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        times: Time steps of the log-mel spectrogram.
        mels: Mel bands of the spectrogram.
        object: Mean diameter of the sounding object, as a share of the frame; less is sparser.
        sound: Mean length of the sound, as a share of the clip; less is sparser.
        distractors: Silent objects in a clip, of other classes and tasks.
        disguise: Saturation of the distractors' hue; 0 is grey, 1 as vivid as the sounding object.
        noise: Standard deviation of noise in the log-mel, where a sound reaches about 1; a quarter of it on pixels.
        overwriting: How far apart the tasks' laws are; 0 is one law for all, 1 spreads them over all hues.
        similar: Share of the distractors, seen or heard, that are of the clip's own task: at 1 neither family nor
            timbre tells which object sounds.
        texture: Share of the background that is a moving cloth of stripes, as strong as the objects'; 0 is smooth.
        tint: Saturation of that cloth, in all hues; 0 is grey, 1 as vivid as the objects.
        unseen: Sounds of objects that are not in the picture, as loud as the source, in its pauses.
        floor: Level of a noise floor with rhythms of its own, in the log-mel, where a sound reaches about 1.
        edges: How much objects and the source's sound seek the edges; at 1 the centre is no likelier than other places.
        fresh: Draw new training instances in every epoch (the only augmentation); otherwise the same ones.
        purpose: What the clips are for: those for tuning and those for reporting have not one draw in common, in
            training and evaluation, whatever the seeds, so that nothing can be chosen on clips that are reported.
        seed: Seed of the clips that stay the same.
    """

    name: ClassVar[str] = "synthetic"

    tasks: Count = 4
    classes: Count = 4
    train_clips: Some = 256
    eval_clips: Some = 32
    pretraining: Many = 8192
    frames: Count = 2
    height: Side = 64
    width: Side = 64
    times: Side = 256
    mels: Side = 64
    object: Share = 0.3
    sound: Share = 0.3
    distractors: NonNegativeInt = 2
    disguise: Fraction = 0.4
    noise: NonNegativeFloat = 0.3
    overwriting: Fraction = 0.3
    similar: Fraction = 0.0
    texture: Fraction = 0.0
    tint: Fraction = 0.0
    unseen: NonNegativeInt = 0
    floor: NonNegativeFloat = 0.0
    edges: Fraction = 0.0
    fresh: bool = True
    purpose: Literal["reporting", "tuning"] = "reporting"
    seed: Seed = 0

    def mistakes(self) -> Iterator[str]:
        """A source too small to be seen or too short to be heard."""
        side = min(self.height, self.width)
        for key, share, whole, unit in (
            ("object", self.object, side, "pixels"),
            ("sound", self.sound, self.times, "mel frames"),
        ):
            if share * whole < 4:
                few = f"{share * whole:.1f} {unit.split()[-1]}"
                yield f"{key}: {share} of {whole} {unit} is {few}: must be at least 4: {4 / whole:.3g} or more"

    @property
    def shape(self) -> Shape:
        """What every clip looks like."""
        return Shape(self.frames, self.height, self.width, self.times, self.mels)

    @property
    def preprocessing(self) -> Preprocessing:
        """Its sizes and ``scale``: the log-mel is rendered, not computed of a sound."""
        (picture_mean, picture_deviation), mel = self.scale["frames"], self.scale["mel"]
        return Preprocessing(
            rendered=True,
            **self.shape._asdict(),
            mel_mean=mel[0],
            mel_deviation=mel[1],
            picture_mean=(picture_mean,) * 3,
            picture_deviation=(picture_deviation,) * 3,
        )

    @property
    def task_names(self) -> tuple[str, ...]:
        """``family_1`` and so on."""
        return tuple(f"family_{task + 1}" for task in range(self.tasks))

    def clips(self, task: int, split: Split) -> Rendered:
        """The clips of one family; every run of ``classes`` items has each class once."""
        labels = range(task * self.classes, (task + 1) * self.classes)
        count = self.train_clips if split == "train" else self.eval_clips
        first = self._first + (0 if split == "train" else self.tasks * self.classes * self.train_clips)
        return Rendered(self, split, labels, count * self.classes, first + labels.start * count)

    def pretraining_clips(self) -> Rendered | None:
        """Clips of families between those of the tasks, of carriers between theirs."""
        first = self._first + self.tasks * self.classes * (self.train_clips + self.eval_clips)
        labels = range(self.tasks * self.classes, 2 * self.tasks * self.classes)
        return Rendered(self, "pretraining", labels, self.pretraining, first) if self.pretraining else None

    @property
    def _first(self) -> int:
        return TUNING if self.purpose == "tuning" else 0

    @property
    def bundled_weights(self) -> Path:
        """Those that were made on textured clips where these are textured."""
        plain = super().bundled_weights
        return plain.with_stem(f"{plain.stem}_textured") if self.texture else plain

    @cached_property
    def kinds(self) -> tuple[render.Kind, ...]:
        """Every class by its label: those of the tasks, then as many to pre-train on."""
        return tuple(
            self._kind(task, carrier, between)
            for between in (0, 1)
            for task in range(self.tasks)
            for carrier in range(self.classes)
        )

    def _kind(self, task: int, carrier: int, between: int) -> render.Kind:
        place = (2 * task + between) / max(1, 2 * self.tasks - 1)
        drift = 0.0 if between else self.overwriting * _apart(task, self.tasks)
        return render.Kind(
            angle=(carrier + between / 2) / self.classes,
            period=5.0 + 4.0 * place,
            tone=place,
            formant=(carrier + between / 2) / self.classes + drift,
            even=0.7 * place,
            law=drift,
        )

    @cached_property
    def scale(self) -> dict[str, tuple[float, float]]:
        """Mean and deviation of frames and log-mel, measured on clips of the tasks that nobody trains on."""
        clips = Rendered(self, "statistics", range(self.tasks * self.classes), 64, 0)
        drawn = [clips.draw(i)[:2] for i in range(len(clips))]
        return {
            key: (float(np.mean(values)), float(np.std(values)))
            for key, values in zip(("frames", "mel"), zip(*drawn, strict=True), strict=True)
        }


class Rendered(Dataset):
    """``size`` clips of the classes ``labels``; item i is of class ``labels[i % len(labels)]``."""

    def __init__(self, scenario: Synthetic, split: str, labels: range, size: int, first: int):
        self.scenario, self.split, self.labels = scenario, split, labels
        self.size, self.first = size, first

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, Any]:
        frames, mel, _ = self.draw(i)
        scale, label = self.scenario.scale, self._label(i)
        known = label < self.scenario.tasks * self.scenario.classes
        return {
            "frames": torch.from_numpy(_normal(frames, *scale["frames"])),
            "mel": torch.from_numpy(_normal(mel, *scale["mel"]))[None],
            "index": self.first + i,
            "label": label,
            "task": label // self.scenario.classes if known else -1,
        }

    def truth(self, i: int) -> Truth:
        """The truth about item i."""
        return self.draw(i)[2]

    def _label(self, i: int) -> int:
        if not 0 <= i < self.size:
            raise IndexError(f"clip {i} of {self.size}")
        return self.labels[i % len(self.labels)]

    def _generator(self, i: int) -> Generator:
        # statistics are of the scenario, whoever asks for them first: never an augmentation's
        anew = augmentation(self.first + i) if self.scenario.fresh and self.split != "statistics" else None
        own = self.scenario.seed, SPLITS.index(self.split), self._label(i), i // len(self.labels)
        tuning = (1,) if self.first >= TUNING else ()  # a fifth number is another stream
        return anew or np.random.default_rng((*own, *tuning))

    def draw(self, i: int) -> tuple[render.Array, render.Array, Truth]:
        """Frames (T, 3, H, W) and log-mel (times, mels) of item i before normalisation, and the truth."""
        my, shape, generator = self.scenario, self.scenario.shape, self._generator(i)
        label = self._label(i)
        kind, sizes = my.kinds[label], render.Sizes(my.object, my.sound, my.edges)
        # streams of their own: no clutter moves a draw of another, or of what is there without any
        of_cloth, of_kin, of_sounds, of_floor = generator.spawn(4)
        sight = render.look(generator)
        sound = render.sound_of(sight, kind, sizes)
        frames = render.background(generator, shape)
        if my.texture:
            frames += np.float32(my.texture) * (clutter.cloth(of_cloth, kind, my.tint, shape) - frames)
        others, kin = self._others(label)
        for _ in range(my.distractors):
            silent, other = render.look(generator), others[generator.integers(len(others))]
            if of_kin.uniform() < my.similar:
                other = kin[of_kin.integers(len(kin))]
            render.paint(frames, render.outline(silent, sizes, shape), other, silent.hue, my.disguise)
        mask = render.outline(sight, sizes, shape)
        render.paint(frames, mask, kind, sight.hue, 1.0)
        level = render.heard(sound, kind, shape)
        grain = generator.standard_normal(frames.shape, np.float32)
        hiss = generator.standard_normal(level.shape, np.float32)
        truth = Truth(torch.from_numpy(mask), render.interval(sound, shape), torch.from_numpy(level), sight, sound)
        heard = level + np.float32(my.noise) * hiss
        for other_sound in clutter.turns(of_sounds, my.unseen, sound, kind, sizes):
            among = kin if of_sounds.uniform() < my.similar else others
            heard += render.heard(other_sound, among[of_sounds.integers(len(among))], shape)
        if my.floor:
            heard += np.float32(my.floor) * clutter.floor(of_floor, shape)
        return frames + np.float32(my.noise / 4) * grain, heard, truth

    def _others(self, label: int) -> tuple[list[render.Kind], list[render.Kind]]:
        """What may distract from this class: all else of the same stage, and of that what is of the same task.

        It is silent or unseen here and the source elsewhere; where there is nothing else it is of this class.
        """
        kinds, classes, stage = self.scenario.kinds, self.scenario.classes, len(self.scenario.kinds) // 2
        others = [j for j in range(len(kinds)) if j // stage == label // stage and j != label]
        kin = [j for j in others if j // classes == label // classes]
        return [kinds[j] for j in others or [label]], [kinds[j] for j in kin or [label]]


def _normal(values: render.Array, mean: float, deviation: float) -> render.Array:
    return (values - np.float32(mean)) / np.float32(deviation)


def _apart(task: int, tasks: int) -> float:
    """The task's place in -1/2..1/2: all evenly spread, the first near 0, neighbours in time far apart."""
    place = task // 2 + (tasks // 2 if task % 2 == 0 else 0)
    return (place + 0.5) / tasks - 0.5


@hookimpl
def scenarios() -> Iterable[type[Scenario]]:
    """The synthetic stream."""
    return [Synthetic]
