"""What each of two spawned processes does in test_dist: a module of its own, so that they can import it."""

from pathlib import Path

import torch

from avcl.clip import Clip
from avcl.testing.toys import Noise, small_backbone
from avcl.training.loading import Collate
from avcl.utils import distributed


def clips():
    data = Noise().clips(0, "train")
    items, _ = Collate()([data[i] for i in range(8)])
    return Clip.cut(items["frames"].double(), items["mel"].double(), 16, index=items["index"])


def gradient(backbone, clip, masks):
    output = backbone(clip, masks)
    loss = torch.stack([term.mean() for term in output.terms.values()]).sum()
    loss.backward()
    return loss.detach()


def flat(backbone):
    return torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])


def process(rank, port, folder):
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    backbone, whole = small_backbone(torch.float64), clips()
    masks = backbone.draw_masks(whole, torch.Generator().manual_seed(0))
    mine = slice(4 * rank, 4 * rank + 4)
    loss = gradient(backbone, whole[mine], masks[mine])
    distributed.average_gradients(backbone.parameters())
    torch.distributed.all_reduce(loss)
    torch.save({"loss": loss / 2, "gradient": flat(backbone), "rank": distributed.rank()}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
