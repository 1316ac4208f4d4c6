"""The engine in plain PyTorch, for any device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.chunked.elementwise import TorchOperations
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.queue import queue_pass
from edgessl.kernels.chunked.tiled import TiledEngine, plainly
from edgessl.kernels.chunked.tiling import TileShape, tile_shape
from edgessl.kernels.engine import QueuePass
from edgessl.kernels.problem import Rows

__all__ = ["TorchEngine"]


class TorchEngine(TiledEngine):
    """`edgessl.kernels.engine.Engine`; tests set the tiles' shape and how products are rounded."""

    def __init__(self, shape: TileShape | None = None, *, rounded: bool | None = None) -> None:
        self._shape, self._rounded = shape, rounded

    def rounded(self, rows: Tensor) -> bool:
        """In half precision on GPUs: tensor cores give float32 of it."""
        half = rows.dtype in (torch.float16, torch.bfloat16)
        return half and (rows.is_cuda if self._rounded is None else self._rounded)

    def shape(self, rows: Tensor, columns: int, *, weights: bool) -> TileShape:
        """See `tile_shape`."""
        return self._shape or tile_shape(rows, columns)

    def operations(self, products: Products, scale: Tensor, shape: TileShape) -> TorchOperations:
        """One operation of PyTorch after the other, in place."""
        return TorchOperations(products, scale, shape)

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
            shape = self.shape(query.values, queue.shape[0], weights=True)
            products = self.products(query.values)
            run = self.operations(products, scale, shape)
            return queue_pass(
                run, products, shape, query, key, queue, scale, bounded=bounded, gradients=gradients
            )
