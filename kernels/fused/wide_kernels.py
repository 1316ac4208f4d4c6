"""Kernels for rows too wide to stay on the chip: a tile's weights, their product, gradients' ends.

A tile's logits never leave the chip; its weights do, rounded, for the second product.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edgessl.kernels.fused.logits import load_block, tile_products
from edgessl.kernels.fused.softplus import LN_2, softplus_and_slope
from edgessl.kernels.fused.tiles import INTERPRETED, LOG2_E, rounded

__all__ = ["add_products", "finish_strip", "sigmoid_weights", "softmax_weights"]

# As in `edgessl.kernels.fused.tiles`.
_UPCAST = tl.constexpr(INTERPRETED)


@triton.jit
def _store_tile(out, row, rows, column, columns, weights):
    """Store what is inside (rows, columns) of weights."""
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    # Outside, where logits are 0, an exponential may be beyond float16: the interpreter warns.
    weights = tl.where(inside, weights, 0.0)
    tl.store(out + place, rounded(weights, out.dtype.element_ty), mask=inside)


@triton.jit
def softmax_weights(
    x,
    y,
    scale,
    row_shift,
    row_weight,
    row_pull,
    column_shift,
    column_weight,
    column_pull,
    row_labels,
    column_labels,
    out,
    rows,
    columns,
    first_row,
    first_column,
    half,
    offset,
    KIND: tl.constexpr,
    BOUNDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out`` (rows, columns): W of a tile, see `edgessl.kernels.problem`.

    ``x`` (rows, D) and ``y`` (columns, D) are the tile's; vectors and labels are those of all rows
    and columns, of which the tile's begin at ``first_row`` and ``first_column``. ``half``: A/2.
    Grid: (⌈rows/ROWS⌉, ⌈columns/COLUMNS⌉).
    """
    first = tl.program_id(0) * ROWS
    start = tl.program_id(1) * COLUMNS
    logits = tile_products(
        x, first, rows, y, start, columns, 0, "", ROWS, COLUMNS, D, PART, PRECISION
    )
    logits *= tl.load(scale) * LOG2_E
    row = first + tl.arange(0, ROWS)
    column = start + tl.arange(0, COLUMNS)
    i = first_row + row
    j = first_column + column
    a = tl.load(row_weight + i, mask=row < rows, other=0.0)
    b = tl.load(column_weight + j, mask=column < columns, other=0.0)
    own = i + offset
    itself = j[None, :] == own[:, None]
    if KIND == "labels":
        label = tl.load(row_labels + i, mask=row < rows, other=0)
        other = tl.load(column_labels + j, mask=column < columns, other=0)
        positive = (label[:, None] == other[None, :]) & ~itself
    elif KIND == "views":
        positive = j[None, :] == tl.where(i < half, own + half, own - half)[:, None]
    else:
        positive = itself
    # What does not count may be far above L, where its exponential is infinite.
    apart = itself if KIND == "labels" else itself | positive
    logits = tl.where(apart, float("-inf"), logits)
    if BOUNDED:
        weights = tl.exp2(logits) * (a[:, None] + b[None, :])
    else:
        row_least = tl.load(row_shift + i, mask=row < rows, other=float("inf")) * LOG2_E
        weights = tl.exp2(logits - row_least[:, None]) * a[:, None]
        column_least = tl.load(column_shift + j, mask=column < columns, other=float("inf"))
        weights += tl.exp2(logits - (column_least * LOG2_E)[None, :]) * b[None, :]
    alpha = tl.load(row_pull + i, mask=row < rows, other=0.0)
    beta = tl.load(column_pull + j, mask=column < columns, other=0.0)
    weights -= tl.where(positive, alpha[:, None] + beta[None, :], 0.0)
    _store_tile(out, row, rows, column, columns, weights)


@triton.jit
def sigmoid_weights(
    x,
    y,
    scale,
    bias,
    column_weight,
    losses,
    weight_sum,
    out,
    rows,
    columns,
    first_row,
    first_column,
    offset,
    multiple,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``out`` (rows, columns): multiple·W of the pairwise sigmoid loss.

    Each block of columns leaves its part of the rows' ``losses`` and ``weight_sum``:
    (⌈columns/COLUMNS⌉, rows) float32. The rest is as in `softmax_weights`.

    Source: arXiv:2303.15343, eq. 1.
    """
    first = tl.program_id(0) * ROWS
    start = tl.program_id(1) * COLUMNS
    logits = tile_products(
        x, first, rows, y, start, columns, 0, "", ROWS, COLUMNS, D, PART, PRECISION
    )
    logits = logits * (tl.load(scale) * LOG2_E) + tl.load(bias) * LOG2_E
    row = first + tl.arange(0, ROWS)
    column = start + tl.arange(0, COLUMNS)
    j = first_column + column
    positive = j[None, :] == (first_row + offset + row)[:, None]
    logits = tl.where(positive, -logits, logits)
    logits = tl.where(column[None, :] < columns, logits, float("-inf"))
    loss, weights = softplus_and_slope(logits)
    place = tl.program_id(1).to(tl.int64) * rows + row
    tl.store(losses + place, tl.sum(loss, axis=1) * LN_2, mask=row < rows)
    weights = tl.where(positive, -weights, weights)
    if column_weight is not None:
        weights *= tl.load(column_weight + j, mask=column < columns, other=0.0)[None, :]
    tl.store(weight_sum + place, tl.sum(weights, axis=1), mask=row < rows)
    _store_tile(out, row, rows, column, columns, weights * multiple)


@triton.jit
def add_products(
    weights,
    y,
    sums,
    rows,
    columns,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``sums`` (rows, D) float32 += ``weights`` (rows, columns) · ``y`` (columns, D).

    Grid: (⌈rows/ROWS⌉, ⌈D/WIDTH⌉).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    found = tl.zeros((ROWS, WIDTH), tl.float32)
    own = weights + row.to(tl.int64)[:, None] * columns
    for start in range(0, columns, STEP):
        column = start + tl.arange(0, STEP)
        inside = column < columns
        w = tl.load(own + column[None, :], mask=(row[:, None] < rows) & inside[None, :], other=0.0)
        place = y + column.to(tl.int64)[:, None] * D + d[None, :]
        other = tl.load(place, mask=inside[:, None] & (d[None, :] < D), other=0.0)
        if _UPCAST:
            w = w.to(tl.float32)
            other = other.to(tl.float32)
        found = tl.dot(w, other, found, input_precision=PRECISION)
    place = sums + row.to(tl.int64)[:, None] * D + d[None, :]
    inside = (row[:, None] < rows) & (d[None, :] < D)
    tl.store(place, tl.load(place, mask=inside, other=0.0) + found, mask=inside)


@triton.jit
def finish_strip(
    sums,
    values,
    inverse_norm,
    factor,
    out,
    along,
    rows,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    PART: tl.constexpr,
):
    """`edgessl.kernels.fused.finish.finish_rows` for any D, PART columns at a time.

    ``sums`` (rows, D) float32, dẑ without ``factor`` (one float32); it may be ``out``.
    """
    first = tl.program_id(0) * ROWS
    row = first + tl.arange(0, ROWS)
    inside = row < rows
    multiple = tl.load(factor)
    lengthwise = tl.zeros((ROWS,), tl.float32)
    for start in range(0, D, PART):
        unit = load_block(values, first, rows, ROWS, start, D, PART).to(tl.float32)
        gradient = load_block(sums, first, rows, ROWS, start, D, PART) * multiple
        lengthwise += tl.sum(gradient * unit, axis=1)
    tl.store(along + row, lengthwise, mask=inside)
    for start in range(0, D, PART):
        gradient = load_block(sums, first, rows, ROWS, start, D, PART) * multiple
        if inverse_norm is not None:
            norm = tl.load(inverse_norm + row, mask=inside, other=0.0)
            unit = load_block(values, first, rows, ROWS, start, D, PART).to(tl.float32)
            gradient = (gradient - unit * lengthwise[:, None]) * norm[:, None]
        column = start + tl.arange(0, PART)
        place = out + row.to(tl.int64)[:, None] * D + column[None, :]
        kept = inside[:, None] & (column[None, :] < D)
        tl.store(place, rounded(gradient, out.dtype.element_ty), mask=kept)
