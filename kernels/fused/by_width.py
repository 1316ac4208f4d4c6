"""Passes whose kernels depend on how wide rows are."""

from __future__ import annotations

from torch import Tensor

from edgessl.kernels.engine import QueuePass, SigmoidPass
from edgessl.kernels.fused.gradient_blocks import WIDEST
from edgessl.kernels.fused.gradients import gradients as narrow_gradients
from edgessl.kernels.fused.gradients import mutual_gradients as narrow_mutual_gradients
from edgessl.kernels.fused.queue import queue as narrow_queue
from edgessl.kernels.fused.sigmoid import mutual_sigmoid as narrow_mutual_sigmoid
from edgessl.kernels.fused.sigmoid import sigmoid as narrow_sigmoid
from edgessl.kernels.fused.wide import WideEngine
from edgessl.kernels.problem import Gradient, Pairs, Rows, Skip, Terms

__all__ = ["gradients", "mutual_gradients", "mutual_sigmoid", "queue", "sigmoid"]

_WIDE = WideEngine()


def gradients(
    rows: Rows,
    columns: Tensor,
    scale: Tensor,
    pairs: Pairs,
    row_terms: Terms,
    column_terms: Terms,
    factor: Tensor,
    *,
    bounded: bool,
    skip: Skip | None,
) -> Gradient:
    """See `edgessl.kernels.engine.Engine.gradients`."""
    run = narrow_gradients if _stays(columns) else _WIDE.gradients
    return run(
        rows, columns, scale, pairs, row_terms, column_terms, factor, bounded=bounded, skip=skip
    )


def mutual_gradients(
    rows: Rows,
    columns: Rows | None,
    scale: Tensor,
    pairs: Pairs,
    row_terms: Terms,
    column_terms: Terms,
    factor: Tensor,
    *,
    bounded: bool,
    skip: Skip | None,
) -> tuple[Gradient, Gradient]:
    """See `edgessl.kernels.engine.Engine.mutual_gradients`."""
    run = narrow_mutual_gradients if _stays(rows.values) else _WIDE.mutual_gradients
    return run(
        rows, columns, scale, pairs, row_terms, column_terms, factor, bounded=bounded, skip=skip
    )


def sigmoid(
    rows: Rows,
    columns: Tensor,
    scale: Tensor,
    bias: Tensor,
    offset: int,
    column_weight: Tensor | None,
    *,
    gradients: bool,
) -> SigmoidPass:
    """See `edgessl.kernels.engine.Engine.sigmoid`."""
    run = narrow_sigmoid if _stays(columns) else _WIDE.sigmoid
    return run(rows, columns, scale, bias, offset, column_weight, gradients=gradients)


def mutual_sigmoid(
    rows: Rows,
    columns: Rows,
    scale: Tensor,
    bias: Tensor,
    *,
    gradients: bool,
) -> tuple[SigmoidPass, Gradient | None]:
    """See `edgessl.kernels.engine.Engine.mutual_sigmoid`."""
    run = narrow_mutual_sigmoid if _stays(rows.values) else _WIDE.mutual_sigmoid
    return run(rows, columns, scale, bias, gradients=gradients)


def queue(
    query: Rows,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    *,
    bounded: bool,
    gradients: bool,
) -> QueuePass:
    """See `edgessl.kernels.engine.Engine.queue`."""
    run = narrow_queue if _stays(key) else _WIDE.queue
    return run(query, key, queue, scale, bounded=bounded, gradients=gradients)


def _stays(rows: Tensor) -> bool:
    """Whether a block of rows, or of their gradient, stays on the chip."""
    return rows.shape[1] <= WIDEST
