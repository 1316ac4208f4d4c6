"""What the backward operators of the losses share: upstream gradients, skipping, one order only."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.library import CustomOpDef

from edgessl.kernels.gather import gather_values, rank_and_size
from edgessl.kernels.problem import Skip

__all__ = ["differentiable_once", "shared_weights", "skip_below"]


def shared_weights(
    gradient: Tensor, uniform: bool, group: dist.ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """Upstream gradients of everybody's losses, divided by their largest magnitude.

    Args:
        gradient: (A,) of this process's losses.
        uniform: They are all the same, on every process: nothing is exchanged.
        group: Who shares the global batch.

    Returns:
        Weights (W·A,) in [−1, 1], and the magnitude (0-dimensional), 1 where all are zero.
    """
    size = rank_and_size(group)[1]
    if size > 1 and uniform:
        everyone = gradient[:1].expand(size * gradient.shape[0])
    else:
        everyone = gather_values(gradient, group)
    largest = everyone.abs().amax()
    magnitude = torch.where(largest > 0, largest, 1)
    return everyone / magnitude, magnitude


def skip_below(peaks: Tensor, pull: Tensor, dtype: torch.dtype) -> Skip | None:
    """Leave out cells that cannot change a gradient by more than the dtype's eps.

    What is left out of one row sums to less than eps times the largest pull of the batch, the
    weight with which a loss draws its positive: an error of eps in the norm of the gradient.

    Args:
        peaks: Of `edgessl.kernels.problem.Statistics`; empty if nothing is to be skipped.
        pull: (B,) of everybody's rows.
        dtype: Of the gradient.
    """
    if not peaks.numel():
        return None
    return Skip(peaks, pull.abs().amax() * (torch.finfo(dtype).eps / pull.shape[0]))


def differentiable_once(operator: CustomOpDef) -> None:
    """A gradient of this operator's result is an error that says so."""

    def refuse(ctx: Any, *gradients: Any) -> NoReturn:
        raise RuntimeError(
            "edgessl.kernels: this loss can be differentiated once; "
            "take implementation='reference' for second derivatives"
        )

    operator.register_autograd(refuse)
