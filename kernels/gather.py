"""Gather rows from every process of a group, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

__all__ = ["gather_rows", "rank_and_size"]


def rank_and_size(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Rank and size of a group; (0, 1) for None, which means this process alone."""
    if group is None:
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def gather_rows(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Concatenate the rows of all processes, in rank order.

    The gradient of a gathered row is the sum over the processes of what each of them computed
    for it, so that gradients averaged by DDP equal those of one process on the global batch.

    Args:
        rows: (N, D), the same shape on every process.
        group: The process group; None gives ``rows`` back.

    Returns:
        (W·N, D) where W is the number of processes.
    """
    if rank_and_size(group)[1] == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, group)
    return gathered


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        rank, size = rank_and_size(ctx.group)
        return total.chunk(size)[rank], None
