"""Rows of every process of a group, with and without gradients."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

__all__ = ["gather_rows", "gather_values", "group_name", "named_group", "rank_and_size"]

# Operators of torch.library take no process groups; they are known to them by their names.
_GROUPS: dict[str, dist.ProcessGroup] = {}


def rank_and_size(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Rank and size of a group; (0, 1) for None, which means this process alone."""
    if group is None:
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def group_name(group: dist.ProcessGroup | None) -> str:
    """A name by which `named_group` finds the group; empty for one process."""
    if group is None or rank_and_size(group)[1] == 1:
        return ""
    _GROUPS[group.group_name] = group
    return group.group_name


def named_group(name: str) -> dist.ProcessGroup | None:
    """The group of `group_name`."""
    return _GROUPS[name] if name else None


def gather_values(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Concatenate tensors of all processes in rank order, (W·N, …) of (N, …); no gradients."""
    size = rank_and_size(group)[1]
    if size == 1:
        return values
    everyone = values.new_empty((size * values.shape[0], *values.shape[1:]))
    dist.all_gather_into_tensor(everyone, values.contiguous(), group=group)
    return everyone


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
        return gather_values(rows, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        rank, size = rank_and_size(ctx.group)
        return total.chunk(size)[rank], None
