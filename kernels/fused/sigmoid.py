"""The pairwise sigmoid loss in Triton: losses and gradient from one pass over the columns.

Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (arXiv:2303.15343), eq. 1. The
normaliser of a pair needs no other pair, so that the gradient needs no second pass. With
y = s + bias, negated for the positive, the loss of a pair is softplus(y) and its weight
±σ(y) = ±exp(y − softplus(y)): neither overflows, and nothing cancels.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.engine import SigmoidPass
from edgessl.kernels.fused.finish import block_width, finish_rows, finish_splits, store_rows
from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.logits import architecture
from edgessl.kernels.fused.row_owned import (
    HALF_LIFT,
    column_splits,
    products_with_own,
    tiling,
)
from edgessl.kernels.fused.softplus import LN_2, softplus_and_slope
from edgessl.kernels.fused.tiles import LOG2_E, load_rows, weighted_rows
from edgessl.kernels.problem import Gradient, Rows

__all__ = ["mutual_sigmoid", "sigmoid"]


@triton.jit
def _sigmoid(
    values,
    inverse_norm,
    column_values,
    column_weight,
    scale,
    bias,
    losses,
    weight_sum,
    out,
    along,
    row_count,
    column_count,
    offset,
    split_columns,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEP: tl.constexpr,
):
    """One block of rows against one part of the columns.

    ``out``: (A, D) in the rows' dtype with ``along`` (A,); or (S, A, D) float32 without ``along``:
    parts of a sum; or None. ``losses`` and ``weight_sum``: (S, A).
    """
    lift: tl.constexpr = HALF_LIFT if values.dtype.element_ty == tl.float16 else 1.0
    split = tl.program_id(1)
    first_row = tl.program_id(0) * BLOCK_M
    rows = first_row + tl.arange(0, BLOCK_M)
    own = load_rows(values, rows, row_count, D, BLOCK_D)
    logit_scale = tl.load(scale)
    exponent_scale = logit_scale * LOG2_E
    exponent_bias = tl.load(bias) * LOG2_E

    lost = tl.zeros((BLOCK_M,), tl.float32)
    weighed = tl.zeros((BLOCK_M,), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    first = split * split_columns
    last = tl.minimum(first + split_columns, column_count)
    diagonal = first_row + offset
    for start in range(first, last, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        other = load_rows(column_values, columns, column_count, D, BLOCK_D)
        dots = products_with_own(
            values,
            own,
            first_row,
            row_count,
            column_values,
            other,
            start,
            column_count,
            BLOCK_M,
            BLOCK_N,
            D,
            STEP,
        )
        y = dots * exponent_scale + exponent_bias
        near = (start < diagonal + BLOCK_M) & (start + BLOCK_N > diagonal)
        if near | (start + BLOCK_N > column_count):
            y = tl.where(columns[None, :] == rows[:, None] + offset, -y, y)
            y = tl.where(columns[None, :] < column_count, y, float("-inf"))
        loss, weights = softplus_and_slope(y)
        lost += tl.sum(loss, axis=1)
        if near:
            weights = tl.where(columns[None, :] == rows[:, None] + offset, -weights, weights)
        if column_weight is not None:
            inside = columns < column_count
            weights *= tl.load(column_weight + columns, mask=inside, other=0.0)[None, :]
        weighed += tl.sum(weights, axis=1)
        if out is not None:
            sums = weighted_rows(weights * lift, other, sums, "tf32x3")

    inside = rows < row_count
    place = split.to(tl.int64) * row_count + rows
    tl.store(losses + place, lost * LN_2, mask=inside)
    tl.store(weight_sum + place, weighed, mask=inside)
    if out is not None:
        sums = sums * (logit_scale / lift)
        if along is not None:
            finish_rows(sums, values, rows, row_count, inverse_norm, out, along, D)
        else:
            part = out + split.to(tl.int64) * row_count * D
            store_rows(part, rows, row_count, sums, D)


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
    """As in `edgessl.kernels.engine.Engine`, for D ≤ 512."""
    values = rows.values.contiguous()
    count, width = values.shape
    tiles = tiling(width, values.dtype, architecture(values))
    blocks = triton.cdiv(count, tiles.rows)
    splits, split_columns = column_splits(values, blocks, len(columns), tiles)
    losses, weight_sum = values.new_empty(2, splits, count, dtype=torch.float32)
    out = along = None
    if gradients and splits > 1:
        out = values.new_empty(splits, count, width, dtype=torch.float32)
    elif gradients:
        out = torch.empty_like(values)
        along = values.new_empty(count, dtype=torch.float32)
    launch(
        _sigmoid,
        (blocks, splits),
        values,
        values,
        rows.inverse_norm,
        columns.contiguous(),
        None if column_weight is None else column_weight.contiguous(),
        scale,
        bias,
        losses,
        weight_sum,
        out,
        along,
        count,
        len(columns),
        offset,
        split_columns,
        D=width,
        BLOCK_D=block_width(width),
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.columns,
        STEP=tiles.step,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    gradient = None
    if out is not None:
        gradient = (
            finish_splits(out, Rows(values, rows.inverse_norm))
            if along is None
            else Gradient(out, along)
        )
    return SigmoidPass(losses.sum(0), gradient, weight_sum.sum(0))


def mutual_sigmoid(
    rows: Rows, columns: Rows, scale: Tensor, bias: Tensor, *, gradients: bool
) -> tuple[SigmoidPass, Gradient | None]:
    """As in `edgessl.kernels.engine.Engine`, for D ≤ 512: two passes, which own rows each."""
    own = sigmoid(rows, columns.values, scale, bias, 0, None, gradients=gradients)
    if not gradients:
        return own, None
    other = sigmoid(columns, rows.values, scale, bias, 0, None, gradients=True)
    return own, other.gradient
