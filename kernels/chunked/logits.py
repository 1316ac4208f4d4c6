"""Tiles of logits, made in one buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.chunked.operations import Operations
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.tiling import Tile, TileShape

__all__ = ["LogitTiles"]


class LogitTiles:
    """Logits of one strip of rows after the other.

    Attributes:
        rows: The strip's rows as they are multiplied.
    """

    def __init__(
        self, operations: Operations, products: Products, shape: TileShape, scale: Tensor
    ) -> None:
        self._products, self._scale = products, scale
        # Where rows are float32 (or float64) anyway, scaling them is cheaper than scaling a tile.
        self._scales_rows = operations.takes_logits and not products.rounded
        self._scales_tiles = operations.takes_logits and products.rounded
        size = shape.rows * max(shape.rows, shape.columns)
        self._logits = scale.new_empty(size)
        self._weights: Tensor | None = None
        self.rows = self._left = scale

    def take_rows(self, values: Tensor, row: int, row_stop: int) -> None:
        """Go to the strip of these rows."""
        self.rows = self._left = self._products.block(values, row, row_stop, "rows")
        if self._scales_rows:
            self._left = self._products.scaled(self.rows, self._scale)

    def logits(self, tile: Tile, columns: Tensor) -> tuple[Tensor, Tensor]:
        """A tile of the strip as operations take it, and its columns as they are multiplied."""
        block = self._products.block(columns, tile.column, tile.column_stop, "columns")
        logits = self._products.logits(self._left, block, tile.of(self._logits))
        return (logits.mul_(self._scale) if self._scales_tiles else logits), block

    def weights(self, tile: Tile, logits: Tensor) -> Tensor:
        """Where the tile's weights go: over the logits, unless they are rounded."""
        if not self._products.rounded:
            return logits
        if self._weights is None:
            self._weights = torch.empty_like(self._logits, dtype=self._products.weights_dtype)
        return tile.of(self._weights)
