"""Passes that leave gradients: factor · W · C, with W made tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgessl.kernels.chunked.logits import LogitTiles
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.scaling import empty_gradient, finish
from edgessl.kernels.chunked.tiling import Tile, TileShape, spans, upper_spans
from edgessl.kernels.problem import Gradient, Rows

__all__ = ["Weigh", "mutual_gradients", "row_gradients"]

Weigh = Callable[[Tensor, Tile, Tensor], None]
"""Puts the weights of a tile of logits into the last argument, times ``weights_scale``."""


def row_gradients(
    tiles: LogitTiles,
    products: Products,
    shape: TileShape,
    rows: Rows,
    columns: Tensor,
    factor: Tensor,
    weigh: Weigh,
) -> Gradient:
    """Gradient of the rows alone: no more than one strip's sums are in float32 at a time."""
    out = empty_gradient(rows)
    count, width = rows.values.shape
    sums = factor.new_empty(min(shape.rows, count), width)
    factor = factor / products.weights_scale
    for row, row_stop in spans(0, count, shape.rows):
        strip = sums[: row_stop - row].zero_()
        tiles.take_rows(rows.values, row, row_stop)
        for column, column_stop in spans(0, columns.shape[0], shape.columns):
            tile = Tile(row, row_stop, column, column_stop)
            logits, block = tiles.logits(tile, columns)
            weights = tiles.weights(tile, logits)
            weigh(logits, tile, weights)
            products.accumulate(strip, weights, block)
        finish(strip, rows, factor, row, out)
    return out


def mutual_gradients(
    tiles: LogitTiles,
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
    count, other_count = rows.values.shape[0], others.values.shape[0]
    for row, row_stop in spans(0, count, shape.rows):
        tiles.take_rows(rows.values, row, row_stop)
        if columns is None:
            walk = upper_spans(row, row_stop, count, shape.columns)
        else:
            walk = spans(0, other_count, shape.columns)
        for column, column_stop in walk:
            tile = Tile(row, row_stop, column, column_stop)
            logits, block = tiles.logits(tile, others.values)
            weights = tiles.weights(tile, logits)
            weigh(logits, tile, weights)
            products.accumulate(row_sums[row:row_stop], weights, block)
            if columns is not None or column != row:
                products.accumulate(column_sums[column:column_stop], weights.T, tiles.rows)
    factor = factor / products.weights_scale
    finish(row_sums, rows, factor, 0, row_out)
    if columns is not None:
        finish(column_sums, columns, factor, 0, column_out)
    return row_out, column_out


def _room(out: Gradient, factor: Tensor) -> Tensor:
    """Zeroed float32 (or float64) sums for a gradient."""
    if out.rows.dtype == factor.dtype:
        return out.rows.zero_()
    return torch.zeros_like(out.rows, dtype=factor.dtype)
