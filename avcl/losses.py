"""The losses of audio-video masked pre-training as pure functions; each returns one value per clip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from avcl.utils import distributed


def contrastive(audio: Tensor, video: Tensor, temperature: float, *, both: bool = True) -> Tensor:
    """Contrastive loss (InfoNCE) between paired embeddings ``audio (B, D)`` and ``video (B, D)``: (B,).

    With a_i, v_i the embeddings at unit length, t the temperature and j over the clips of every process::

        video to audio:  l_i = -log( exp(v_i . a_i / t) / sum_j exp(v_i . a_j / t) )
        audio to video:  the same with a and v exchanged

    ``both`` is the mean of the two directions (STELLA, arXiv 2310.08204, as its code weighs them); else only
    video to audio (CAV-MAE, arXiv 2210.07839, equation 5 as its code has it).
    """
    audio, video = _unit(audio), _unit(video)
    own = torch.arange(len(audio), device=audio.device) + distributed.place(len(audio)).start
    # bfloat16 keeps two or three digits of a logit of 20: too few for a softmax
    with torch.autocast(audio.device.type, enabled=False):
        loss = F.cross_entropy(video @ distributed.gather(audio).T / temperature, own, reduction="none")
        if both:
            back = F.cross_entropy(audio @ distributed.gather(video).T / temperature, own, reduction="none")
            loss = (loss + back) / 2
    return loss


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)


def reconstruction(predicted: Tensor, patches: Tensor) -> Tensor:
    """Masked reconstruction loss: squared error of ``predicted`` against masked ``patches``, both (B, N, P): (B,).

    Every target patch x is first normalised to mean 0 and variance 1, as in masked autoencoders (arXiv
    2111.06377, section 4.1), with the unbiased variance::

        y = (x - mean(x)) / sqrt(var(x) + 1e-6),   l = mean over N and P of (predicted - y)^2
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return ((predicted - (patches - mean) / (variance + 1e-6).sqrt()) ** 2).mean(dim=(1, 2))


def reconstructed(predicted: Tensor, patches: Tensor) -> Tensor:
    """What ``predicted (B, N, P)`` says of masked ``patches (B, N, P)``: at the mean and variance of each, to look at.

    The loss asks for normalised patches, so that mean and variance are not among what is predicted.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return predicted * (variance + 1e-6).sqrt() + mean
