"""One process of a group that shares global batches; spawned processes can import this module."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contracts.contrastive_checks import call, gradients, upstream_of
from contracts.contrastive_losses import LOSSES, Problem, problem

__all__ = ["COUNT", "Encoder", "cases", "global_batch", "losses_of", "one_share", "row_count"]

COUNT = 24
"""Rows of the global batch (12 samples of two views, 24 pairs, 8 queries with a queue of 24)."""


def cases(world: int) -> list[tuple[str, str, str]]:
    """Loss, implementation and reduction of everything that the processes compute."""
    found = [
        (loss, implementation, reduction)
        for loss in LOSSES
        for implementation in ("chunked", "reference")
        for reduction in ("mean", "sum", "none")
    ]
    try:
        from triton import knobs
    except ImportError:
        return found
    if world == 2 and knobs.runtime.interpret:
        found += [(loss, "triton", reduction) for loss in LOSSES for reduction in ("mean", "none")]
    return found


def global_batch(loss: str) -> Problem:
    return problem(loss, COUNT, 6, 0.2)


def row_count(given: Problem) -> int:
    """How many rows have a loss."""
    return len(next(iter(given.rows.values())))


def share_of(rows: Tensor, rank: int, world: int, two_views: bool) -> Tensor:
    """This process's samples; of both views, if rows are two views of each."""
    views = rows.chunk(2) if two_views else (rows,)
    return torch.cat([view.chunk(world)[rank] for view in views])


def share(given: Problem, rank: int, world: int) -> Problem:
    """This process's part of a global batch; the queue is everybody's."""
    two_views = given.loss in ("nt_xent", "dcl")
    return Problem(
        given.loss,
        {
            name: rows if name == "queue" else share_of(rows, rank, world, two_views)
            for name, rows in given.rows.items()
        },
        given.scalars,
        None if given.labels is None else share_of(given.labels, rank, world, False),
    )


class Encoder(nn.Module):
    """A model whose gradients DDP averages: one layer, and the loss's scalars as parameters."""

    def __init__(self, given: Problem) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(6, 5)
        self.order = list(given.scalars)
        self.scalars = nn.ParameterDict(
            {name: value.clone() for name, value in given.scalars.items()}
        )

    def forward(self, rows: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        encoded = {name: self.layer(each) for name, each in rows.items()}
        if "queue" in encoded:
            encoded["queue"] = encoded["queue"].detach()
        return encoded, {name: self.scalars[name] for name in self.order}


def losses_of(model: nn.Module, given: Problem, **keywords: Any) -> Tensor:
    """The loss of a problem whose rows go through a model first."""
    encoded, scalars = model(given.rows)
    return call(Problem(given.loss, encoded, scalars, given.labels), **keywords)


def one_share(rank: int, world: int, folder: str) -> None:
    """All cases on this process's share; leaves losses and gradients behind."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    found: dict[Any, Any] = {}
    for loss, implementation, reduction in cases(world):
        given = global_batch(loss)
        own = share(given, rank, world).learnable()
        total = call(
            own, implementation=implementation, reduction=reduction, group=dist.group.WORLD
        )
        upstream = share_of(upstream_of(row_count(given)), rank, world, loss in ("nt_xent", "dcl"))
        into = upstream if reduction == "none" else torch.tensor(1.0)
        found[loss, implementation, reduction] = (total.detach(), gradients(total, own, into))
    for loss in LOSSES:
        own = share(global_batch(loss), rank, world)
        model = DistributedDataParallel(Encoder(own))
        losses_of(model, own, implementation="chunked", group=dist.group.WORLD).backward()
        found[loss, "model"] = {
            name: parameter.grad for name, parameter in model.module.named_parameters()
        }
    if world == 4:
        halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        own = share(problem("clip_loss", COUNT, 6, 0.2), rank, world)
        total = call(own, implementation="chunked", group=halves[rank // 2])
        found["halves"] = total
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()
