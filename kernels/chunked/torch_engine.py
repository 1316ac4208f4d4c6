"""The engine in plain PyTorch, for any device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.chunked.elementwise import TorchOperations
from edgessl.kernels.chunked.operations import Sums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.queue import queue_pass
from edgessl.kernels.chunked.scaling import unit_rows
from edgessl.kernels.chunked.statistics import add_sums
from edgessl.kernels.chunked.tiled import TiledEngine, plainly
from edgessl.kernels.chunked.tiling import Masks, TileShape, tile_shape
from edgessl.kernels.engine import QueuePass
from edgessl.kernels.problem import Pairs, Rows, Statistics

__all__ = ["TorchEngine"]


class TorchEngine(TiledEngine):
    """`edgessl.kernels.engine.Engine`; ``peaks`` are None.

    Tests set the tiles' shape and how products are rounded.
    """

    def __init__(self, shape: TileShape | None = None, *, rounded: bool | None = None) -> None:
        self._shape, self._rounded = shape, rounded

    def rounded(self, rows: Tensor) -> bool:
        """In half precision on GPUs: tensor cores give float32 of it."""
        half = rows.dtype in (torch.float16, torch.bfloat16)
        return half and (rows.is_cuda if self._rounded is None else self._rounded)

    def shape(self, rows: Tensor, columns: int) -> TileShape:
        """See `tile_shape`."""
        return self._shape or tile_shape(rows, columns)

    def operations(self, products: Products, scale: Tensor, shape: TileShape) -> TorchOperations:
        """One operation of PyTorch after the other, in place."""
        return TorchOperations(products, scale, shape)

    def unit_rows(self, z: Tensor) -> Rows:
        """See `Engine.unit_rows`."""
        with plainly(z):
            return unit_rows(z)

    def statistics(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        pairs: Pairs,
        *,
        bounded: bool,
        peaks: bool,
    ) -> Statistics:
        """See `Engine.statistics`."""
        with plainly(rows):
            rows, columns = rows.contiguous(), columns.contiguous()
            run, products, shape = self._summing(rows, columns.shape[0], scale)
            sums = Sums.of(rows.shape[0], pairs, scale, bounded)
            masks = Masks.of(pairs, rows.shape[0])
            add_sums(run, products, shape, rows, columns, masks, sums, None)
            return sums.statistics()

    def mutual_statistics(
        self,
        rows: Tensor,
        columns: Tensor | None,
        scale: Tensor,
        pairs: Pairs,
        *,
        bounded: bool,
        peaks: bool,
    ) -> tuple[Statistics, Statistics]:
        """See `Engine.mutual_statistics`."""
        with plainly(rows):
            rows = rows.contiguous()
            columns = None if columns is None else columns.contiguous()
            others = rows if columns is None else columns
            run, products, shape = self._summing(rows, others.shape[0], scale)
            masks = Masks.of(pairs, rows.shape[0])
            row_sums = column_sums = Sums.of(rows.shape[0], pairs, scale, bounded)
            if columns is not None:
                column_sums = Sums.of(others.shape[0], pairs, scale, bounded)
            add_sums(run, products, shape, rows, columns, masks, row_sums, column_sums)
            found = row_sums.statistics()
            return found, found if columns is None else column_sums.statistics()

    def queue(
        self,
        query: Rows,
        key: Tensor,
        queue: Tensor,
        scale: Tensor,
        *,
        bounded: bool,
        gradients: bool,
    ) -> QueuePass:
        """See `Engine.queue`."""
        with plainly(query.values):
            query, queue = Rows(query.values.contiguous(), query.inverse_norm), queue.contiguous()
            shape = self.shape(query.values, queue.shape[0])
            products = self.products(query.values)
            run = self.operations(products, scale, shape)
            return queue_pass(
                run, products, shape, query, key, queue, scale, bounded=bounded, gradients=gradients
            )

    def _summing(
        self, rows: Tensor, columns: int, scale: Tensor
    ) -> tuple[TorchOperations, Products, TileShape]:
        shape = self.shape(rows, columns)
        products = self.products(rows)
        return self.operations(products, scale, shape), products, shape
