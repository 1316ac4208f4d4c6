"""Passes that leave statistics: log-sum-exps and positives' logits."""

from __future__ import annotations

from torch import Tensor

from edgessl.kernels.chunked.logits import LogitTiles
from edgessl.kernels.chunked.operations import Operations, Sums
from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape, spans, upper_spans

__all__ = ["add_sums"]


def add_sums(
    operations: Operations,
    tiles: LogitTiles,
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
    count = rows.shape[0]
    for row, row_stop in spans(0, count, shape.rows):
        tiles.take_rows(rows, row, row_stop)
        if columns is None:
            walk = upper_spans(row, row_stop, count, shape.columns)
        else:
            walk = spans(0, columns.shape[0], shape.columns)
        for column, column_stop in walk:
            tile = Tile(row, row_stop, column, column_stop)
            logits, _ = tiles.logits(tile, rows if columns is None else columns)
            # The square on the diagonal has both of its halves in the rows' sums.
            within = columns is None and column == row
            operations.sums(logits, tile, masks, row_sums, None if within else column_sums)
