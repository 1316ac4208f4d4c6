"""Passes that leave statistics: log-sum-exps and positives' logits."""

from __future__ import annotations

from torch import Tensor

from edgessl.kernels.chunked.operations import Summing, Sums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.tiling import Masks, TileShape, strips, tiles

__all__ = ["add_sums"]


def add_sums(
    operations: Summing,
    products: Products,
    shape: TileShape,
    rows: Tensor,
    columns: Tensor | None,
    masks: Masks,
    row_sums: Sums,
    column_sums: Sums | None,
) -> None:
    """Add logits to the sums of rows and, unless None, to those of columns, tile by tile.

    ``columns`` None are the rows themselves: logits are symmetric then, and each tile above the
    diagonal is seen once, for both sides; both sums are the same object.
    """
    others = rows if columns is None else columns
    for strip in strips(rows, shape):
        operations.take_rows(products.block(rows, strip, "rows"))
        for tile in tiles(strip, others, shape, upper=columns is None):
            block = products.block(others, tile.own_columns, "columns")
            operations.sums(block, tile, masks, row_sums, column_sums)
