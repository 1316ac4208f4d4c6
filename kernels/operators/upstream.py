"""What the backward operators of the losses share: upstream gradients, skipping, one order only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from edgessl.kernels.gather import gather_values, rank_and_size
from edgessl.kernels.problem import Rows, Skip

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef

__all__ = ["differentiable_once", "shared_weights", "skip_below", "times_upstream", "unscaled"]


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


def unscaled(rows: Rows, scale: Tensor, most: int) -> Rows:
    """Rows whose gradient an engine leaves without the factor scale/‖z‖, for `times_upstream`.

    A gradient that the forward pass leaves is for an upstream gradient of 1, far larger than the
    one that will be: short rows would take it out of float16's range. Without that factor it is a
    sum of unit rows, here scaled so that it can just not leave that range, nor needlessly vanish.
    Rows as given have no such factor.

    Args:
        rows: Of unit length, or as given.
        scale: 0-dimensional.
        most: What the weights of a row sum to at most.
    """
    if rows.inverse_norm is None:
        return rows
    return Rows(rows.values, torch.full_like(rows.inverse_norm, _fitting(most)) / scale)


def times_upstream(
    rows: Tensor, gradient: Tensor, inverse_norm: Tensor, scale: Tensor, most: int
) -> Tensor:
    """Gradient (N, D) that `unscaled` rows left, for an upstream gradient (N,) or of one element.

    ``inverse_norm`` is that of the rows, or empty for rows as given.
    """
    if len(inverse_norm):
        gradient = gradient * inverse_norm * (scale / _fitting(most))
    # Multiplied in float32 and rounded once, without a matrix in float32 between.
    return torch.mul(rows, gradient[:, None], out=torch.empty_like(rows))


def _fitting(most: int) -> float:
    """A power of 2 that takes ``most`` to the upper end of float16, below 2¹⁵."""
    return float(2.0 ** (15 - most.bit_length()))


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
