"""A trained backbone as a tool: sound, pictures and files in, embeddings out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

import avcl
from avcl.backbones.hub import locate
from avcl.backbones.layers import layers
from avcl.backbones.protocol import Backbone
from avcl.backbones.weights import load_state, load_weights
from avcl.clip import Clip
from avcl.config.build import find_device
from avcl.data import decode
from avcl.data.preprocessing import Preprocessing
from avcl.errors import UserError
from avcl.evaluation.embeddings import Embeddings, Kind
from avcl.evaluation.media import Media, Read, frames_of, media_files, mel_of, read
from avcl.registry import registry
from avcl.settings import build
from avcl.training.loader import Loader
from avcl.utils.console import counted, shown

log = logging.getLogger(__name__)

Sound = str | Path | Tensor | np.ndarray
Video = str | Path | Tensor | np.ndarray
Item = TypeVar("Item")


class Embedding(NamedTuple):
    """Embeddings (D,) of one file, or (N, D) of N clips, not normalised; None where there is no such modality."""

    audio: Tensor | None
    video: Tensor | None


class Embedder:
    """Embeds sounds and videos with a trained backbone, preprocessed as its training was; compare them by cosine.

    Every modality is embedded alone, so that sounds and videos find each other. Results are float32 on the CPU.

    ``backbone``, which is moved to the device and set to evaluation · ``preprocessing``: by default what the backbone
    carries, else that of the papers · ``source``: how messages call the weights · ``device``: auto, cpu, cuda or
    cuda:N · ``batch_size``: clips of a forward pass ·
    ``workers``: processes that read files, 0 for this one.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing | None = None,
        *,
        source: str = "backbone",
        device: str = "auto",
        batch_size: int = 16,
        workers: int = 0,
    ):
        self.source, self.batch_size, self.workers = source, batch_size, workers
        try:
            self.device = torch.device(find_device(device))
        except UserError as error:
            raise UserError(f"device: {error}") from None
        self.backbone = backbone.to(self.device).eval()
        self.preprocessing = preprocessing or self._carried()
        grid = self.preprocessing.shape.grid(backbone.patch)
        if grid != backbone.grid:
            raise UserError(f"{source}: its preprocessing gives {grid} of patches; the backbone takes {backbone.grid}")

    @classmethod
    def from_pretrained(cls, source: str | Path, *, hub: dict[str, Any] | None = None, **options: Any) -> Embedder:
        """From a weights file, a run folder, a folder of ``save_pretrained``, or ``owner/name`` on the Hub.

        ``options`` are those of an embedder, ``hub`` those of ``huggingface_hub``: revision, token, cache_dir.
        """
        weights = load_weights(locate(source, **hub or {}))
        with torch.random.fork_rng(devices=[]):
            backbone = build(registry().find("backbones", weights.name), weights.settings)
        load_state(backbone, weights.states["backbone"], weights.source)
        backbone.preprocessing = weights.preprocessing
        return cls(backbone, source=str(source), **options)

    def embed(self, path: str | Path) -> Embedding:
        """The sound and the pictures of a file, each where the file has it; BadClip where nothing can be embedded."""
        return next(self._embedded([self._read(path)]))

    def embed_audio(self, sounds: Sound | list[Sound], rate: int | None = None) -> Tensor:
        """The embedding (D,) of a file's sound or of a waveform, or those (N, D) of a list.

        A waveform is (samples,) or (channels, samples) at ``rate``: floating point in [-1, 1], or integers. BadClip
        where a file cannot be used.
        """
        many = sounds if isinstance(sounds, list) else [sounds]
        mels = (self._mel(sound, rate) for sound in many)
        vectors = self._joined(self._audio(torch.stack(part)) for part in _batches(mels, self.batch_size))
        return vectors if many is sounds else vectors[0]

    def embed_video(self, videos: Video | list[Video]) -> Tensor:
        """The embedding (D,) of a file's pictures or of frames, or those (N, D) of a list.

        Frames are uint8, (T, 3, height, width) or (T, height, width, 3), of one window: as many as the backbone takes,
        or more, of which it takes some at even distances. BadClip where a file cannot be used.
        """
        many = videos if isinstance(videos, list) else [videos]
        frames = (self._frames(video) for video in many)
        vectors = self._joined(self._video(torch.stack(part)) for part in _batches(frames, self.batch_size))
        return vectors if many is videos else vectors[0]

    def embed_files(self, *places: str | Path) -> Embeddings:
        """Every file that files, folders and patterns name, with a bar.

        Files that cannot be used are named in the log, counted, and have their error. UserError where there are none.
        """
        media = Media(media_files(places), self._of_recordings())
        found = Embeddings.blank(media.paths, self.backbone.dim, self.about)
        loader = Loader(
            media,
            self.batch_size,
            num_workers=self.workers,
            collate_fn=list,
            generator=torch.Generator(),  # otherwise it draws from the global one
        )
        rows = (row for batch in loader for row in zip(batch, self._embedded(batch), strict=True))
        lost = 0
        for number, (clip, (audio, video)) in enumerate(shown(rows, len(media), "embedding files")):
            found.seconds[number], found.errors[number] = clip.seconds, clip.fault
            if audio is not None:
                found.audio[number] = audio
            if video is not None:
                found.video[number] = video
            if clip.fault:
                lost += clip.empty
                log.warning("skipped %s%s: %s", "" if clip.empty else "a part of ", found.paths[number], clip.fault)
        if lost:
            log.warning("skipped %s", f"{lost:,} of {counted(len(media), 'file')}")
        return found

    def embed_clips(self, clips: Any) -> Embedding:
        """The items of a scenario's dataset, or any with ``frames`` and ``mel`` as the backbone was trained on."""
        parts = []
        for items in _batches((clips[number] for number in range(len(clips))), self.batch_size):
            batch = default_collate([{key: item[key] for key in ("frames", "mel")} for item in items])
            for key, size in self.preprocessing.shape.tensors.items():
                if batch[key].shape[1:] != size:
                    raise UserError(f"{key}: invalid shape {tuple(batch[key].shape[1:])} of a clip: must be {size}")
            parts.append((self._audio(batch["mel"]), self._video(batch["frames"])))
        return Embedding(*(self._joined(part[place] for part in parts) for place in (0, 1)))

    def features(self, path: str | Path) -> dict[str, Tensor]:
        """Tokens (L, D) of a file after every block, by name, as ``avcl.backbones.layers`` says.

        Of a file without sound or without pictures those of the other modality, before the fusion blocks.
        """
        mel, frames = (None if part is None else part[None] for part in self._read(path)[1::-1])
        with torch.no_grad():
            found = layers(self.backbone, self._clip(mel, frames), fused=mel is not None and frames is not None)
        lacking = "audio." if mel is None else "video." if frames is None else "none"
        return {name: tokens[0].float().cpu() for name, tokens in found.items() if not name.startswith(lacking)}

    @property
    def about(self) -> dict[str, Any]:
        """What a table of embeddings says of its weights."""
        return {
            "avcl": avcl.__version__,
            "fingerprint": self.fingerprint,
            "weights": self.source,
            "backbone": self.backbone.name,
            "preprocessing": self.preprocessing.settings(),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the backbone's settings and tensors and of the preprocessing: what decides an embedding."""
        said = [self.backbone.name, self.backbone.settings(), self.preprocessing.settings()]
        found = hashlib.sha256(json.dumps(said).encode())
        for name, value in sorted(self.backbone.state_dict().items()):
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def _carried(self) -> Preprocessing:
        """What the backbone says of its preprocessing; where it says nothing that of the papers, which is said."""
        carried = self.backbone.preprocessing
        if carried is not None:
            return build(Preprocessing, carried, f"{self.source}: preprocessing")
        assumed = Preprocessing.published(self.backbone.grid.shape(self.backbone.patch))
        log.warning("%s does not say its preprocessing; as in the papers: %s", self.source, assumed)
        return assumed

    def _of_recordings(self) -> Preprocessing:
        """The preprocessing; UserError where it is not of recordings."""
        if self.preprocessing.rendered:
            raise UserError(
                f"{self.source}: trained on rendered clips, whose log-mel spectrogram no recording has; embed tensors "
                "with Embedder.embed_clips, or train on files (scenario folder or listed)"
            )
        return self.preprocessing

    def _read(self, path: str | Path, *kinds: Kind) -> Read:
        """What a file has of these modalities, by default of both; BadClip where it has none."""
        found = read(str(path), self._of_recordings(), kinds or ("video", "audio"))
        if found.empty:
            raise decode.bad(str(path), found.fault)
        return found

    def _embedded(self, batch: Sequence[Read]) -> Iterator[Embedding]:
        """The embeddings of each file: one pass for all sounds of a batch, and one for all pictures."""
        mels = [clip.mel for clip in batch if clip.mel is not None]
        frames = [clip.frames for clip in batch if clip.frames is not None]
        audio = iter(self._audio(torch.stack(mels)) if mels else ())
        video = iter(self._video(torch.stack(frames)) if frames else ())
        for clip in batch:
            yield Embedding(None if clip.mel is None else next(audio), None if clip.frames is None else next(video))

    def _joined(self, parts: Iterable[Tensor]) -> Tensor:
        return torch.cat([torch.empty(0, self.backbone.dim), *parts])

    def _audio(self, mels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.backbone.embed(self._clip(mels, None))[0].float().cpu()

    def _video(self, frames: Tensor) -> Tensor:
        with torch.no_grad():
            return self.backbone.embed(self._clip(None, frames))[1].float().cpu()

    def _clip(self, mels: Tensor | None, frames: Tensor | None) -> Clip:
        """Whole clips; a modality that there is not is one empty patch, which the other one's embedding ignores."""
        count, patch = len(frames if mels is None else mels), self.backbone.patch  # type: ignore[arg-type]
        frames = torch.zeros(count, 1, 3, patch, patch) if frames is None else frames
        mels = torch.zeros(count, 1, patch, patch) if mels is None else mels
        return Clip.cut(frames, mels, patch).to(self.device, next(self.backbone.parameters()).dtype)

    def _mel(self, sound: Any, rate: int | None) -> Any:
        given = not isinstance(sound, str | Path)
        return mel_of(sound, rate, self._of_recordings()) if given else self._read(sound, "audio").mel

    def _frames(self, video: Any) -> Any:
        given = not isinstance(video, str | Path)
        return frames_of(video, self._of_recordings()) if given else self._read(video, "video").frames


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, ``size`` at a time."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
