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
    sides = {"audio": audio, "video": video}
    means = {side: distributed.balanced(x.mean((0, 1)), len(x)) for side, x in sides.items()}
    means = distributed.average(means)
    heads = (normalize(tokens - means[side], dim=-1)[:, None] for side, tokens in sides.items())
    audio_head, video_head = (Heads(head, head, head) for head in heads)
    return audio_head, video_head


def closeness(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Importance of patches by the token of the other modality that is most like each, (B, L); every row sums to 1.

    ``query (B, 1, M, D)`` of the other modality, ``key (B, 1, L, D)`` of this one, at unit length::

        I = softmax_j(max over i of q[i] · k[j] / temperature)
    """
    return ((query @ key.mT).amax((1, 2)) / temperature).softmax(-1)
