"""One process of a distributed NT-Xent, in a module that a spawned process can import."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from edgessl.kernels import nt_xent

__all__ = ["one_share"]


def one_share(rank: int, world: int, folder: str) -> None:
    """One process's share: views of its samples; leaves its loss and gradient behind."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    z = torch.load(os.path.join(folder, "z.pt"), weights_only=True)
    n = len(z) // 2 // world
    views = [view[rank * n : (rank + 1) * n] for view in z.chunk(2)]
    local = torch.cat(views).requires_grad_(True)
    loss = nt_xent(local, 0.2, group=dist.group.WORLD)
    loss.backward()
    torch.save((loss.detach(), local.grad), os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()
