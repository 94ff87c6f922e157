"""Scores without a matching module: cosine similarity of the backbone's own tokens of one modality to the other's."""

from torch import Tensor
from torch.nn.functional import normalize

from avcl.plugins.stella.matching import Heads
from avcl.utils import distributed


def centred(audio: Tensor, video: Tensor) -> tuple[Heads, Heads]:
    """Tokens ``(audio (B, A, D), video (B, V, D))`` as queries, keys and values of one head: at unit length.

    From each the mean token of its modality, over the clips of all processes, is subtracted before: what all tokens
    of a modality have in common tells nothing.
    """
    clips = max(1, distributed.place(len(audio)).total)
    sums = distributed.total([audio.sum((0, 1)), video.sum((0, 1))])
    means = (both / (clips * tokens.shape[1]) for both, tokens in zip(sums, (audio, video), strict=True))
    heads = (normalize(x - mean, dim=-1)[:, None] for x, mean in zip((audio, video), means, strict=True))
    audio_head, video_head = (Heads(head, head, head) for head in heads)
    return audio_head, video_head


def closeness(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Importance of patches by the token of the other modality that is most like each, (B, L); every row sums to 1.

    ``query (B, 1, M, D)`` of the other modality, ``key (B, 1, L, D)`` of this one, at unit length::

        I = softmax_j(max over i of q[i] · k[j] / temperature)
    """
    return ((query @ key.mT).amax((1, 2)) / temperature).softmax(-1)
