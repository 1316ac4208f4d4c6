"""Passes that leave gradients: factor · W · C, with W made tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgessl.kernels.chunked.operations import Operations
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.scaling import empty_gradient
from edgessl.kernels.chunked.tiling import Tile, TileShape, strips, tiles
from edgessl.kernels.problem import Gradient, Rows

__all__ = ["Weigh", "mutual_gradients", "row_gradients"]

Weigh = Callable[[Tensor, Tile], Tensor]
"""Weights, times ``weights_scale``, of a block of columns in a tile."""


def row_gradients(
    operations: Operations,
    products: Products,
    shape: TileShape,
    rows: Rows,
    columns: Tensor,
    factor: Tensor,
    weigh: Weigh,
    begin: Callable[[slice, Tensor], object] = lambda strip, sums: sums.zero_(),
) -> Gradient:
    """Gradient of the rows alone: no more than one strip's sums are in float32 at a time.

    ``begin`` sets a strip's sums, times ``weights_scale``, to what they start with.
    """
    out = empty_gradient(rows)
    sums = factor.new_empty(shape.rows, columns.shape[1])
    factor = factor / products.weights_scale
    for strip in strips(rows.values, shape):
        taken = sums[: strip.stop - strip.start]
        begin(strip, taken)
        operations.take_rows(products.block(rows.values, strip, "rows"))
        for tile in tiles(strip, columns, shape):
            block = products.block(columns, tile.own_columns, "columns")
            products.accumulate(taken, weigh(block, tile), block)
        operations.finish(taken, rows, factor, strip.start, out)
    return out


def mutual_gradients(
    operations: Operations,
    products: Products,
    shape: TileShape,
    rows: Rows,
    columns: Rows | None,
    factor: Tensor,
    weigh: Weigh,
) -> tuple[Gradient, Gradient]:
    """Gradients of rows and of columns, each tile of logits made once.

    Sums of all rows are kept: in the gradient itself, if that is float32. ``columns`` None are the
    rows themselves; W is symmetric then, and only tiles on and above the diagonal are made.
    """
    others = rows if columns is None else columns
    row_out = empty_gradient(rows)
    column_out = row_out if columns is None else empty_gradient(others)
    row_sums = _room(row_out, factor)
    column_sums = row_sums if columns is None else _room(column_out, factor)
    for strip in strips(rows.values, shape):
        own = products.block(rows.values, strip, "rows")
        operations.take_rows(own)
        for tile in tiles(strip, others.values, shape, upper=columns is None):
            block = products.block(others.values, tile.own_columns, "columns")
            weights = weigh(block, tile)
            products.accumulate(row_sums[strip], weights, block)
            if columns is not None or tile.column != tile.row:
                products.accumulate(column_sums[tile.own_columns], weights.T, own)
    factor = factor / products.weights_scale
    operations.finish(row_sums, rows, factor, 0, row_out)
    if columns is not None:
        operations.finish(column_sums, columns, factor, 0, column_out)
    return row_out, column_out


def _room(out: Gradient, factor: Tensor) -> Tensor:
    """Zeroed float32 (or float64) sums for a gradient."""
    if out.rows.dtype == factor.dtype:
        return out.rows.zero_()
    return torch.zeros_like(out.rows, dtype=factor.dtype)
