"""The passes of an engine that goes over the logits tile by tile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgessl.kernels.chunked.gradients import mutual_gradients, row_gradients
from edgessl.kernels.chunked.operations import Factors, Operations, SigmoidSums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape, strips, tiles
from edgessl.kernels.engine import SigmoidPass
from edgessl.kernels.problem import Gradient, Pairs, Rows, Skip, Terms

__all__ = ["TiledEngine", "plainly"]


class TiledEngine(ABC):
    """Gradients and sigmoid losses of `edgessl.kernels.engine.Engine`; ``skip`` is ignored.

    What is done with a tile, and how large it is, is the subclass' matter.
    """

    @abstractmethod
    def rounded(self, rows: Tensor) -> bool:
        """Whether rows are multiplied in their own dtype, see `Products`."""

    @abstractmethod
    def shape(self, rows: Tensor, columns: int) -> TileShape:
        """Of tiles."""

    def products(self, rows: Tensor) -> Products:
        """Of rows of this dtype and device."""
        return Products(rows.dtype, rows.device, self.rounded(rows))

    @abstractmethod
    def operations(self, products: Products, scale: Tensor, shape: TileShape) -> Operations:
        """Of one pass."""

    def gradients(
        self,
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
        """See `Engine.gradients`."""
        with plainly(rows.values):
            rows, columns = _contiguous(rows), columns.contiguous()
            run, products, shape = self._pass(rows.values, columns.shape[0], scale)
            masks = Masks.of(pairs, rows.values.shape[0])
            own = Factors.of(row_terms, bounded, products.weights_scale)
            other = Factors.of(column_terms, bounded, products.weights_scale)

            def weigh(block: Tensor, tile: Tile) -> Tensor:
                return run.weights(block, tile, masks, own, other)

            return row_gradients(run, products, shape, rows, columns, factor, weigh)

    def mutual_gradients(
        self,
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
        """See `Engine.mutual_gradients`.

        Where rows are multiplied in half precision, float32 sums of all rows would outgrow rows
        and gradient; there each side's gradient is a pass of its own.
        """
        if self.rounded(rows.values):
            others = rows.values if columns is None else columns.values
            first = self.gradients(
                rows, others, scale, pairs, row_terms, column_terms, factor,
                bounded=bounded, skip=skip,
            )  # fmt: skip
            if columns is None:
                return first, first
            turned = Pairs(pairs.kind, -pairs.offset, pairs.column_labels, pairs.row_labels)
            second = self.gradients(
                columns, rows.values, scale, turned, column_terms, row_terms, factor,
                bounded=bounded, skip=skip,
            )  # fmt: skip
            return first, second
        with plainly(rows.values):
            rows = _contiguous(rows)
            columns = None if columns is None else _contiguous(columns)
            count = rows.values.shape[0]
            wide = count if columns is None else columns.values.shape[0]
            run, products, shape = self._pass(rows.values, wide, scale)
            masks = Masks.of(pairs, count)
            own = Factors.of(row_terms, bounded, products.weights_scale)
            other = own
            if columns is not None:
                other = Factors.of(column_terms, bounded, products.weights_scale)

            def weigh(block: Tensor, tile: Tile) -> Tensor:
                return run.weights(block, tile, masks, own, other)

            return mutual_gradients(run, products, shape, rows, columns, factor, weigh)

    def sigmoid(
        self,
        rows: Rows,
        columns: Tensor,
        scale: Tensor,
        bias: Tensor,
        offset: int,
        column_weight: Tensor | None,
        *,
        gradients: bool,
    ) -> SigmoidPass:
        """See `Engine.sigmoid`."""
        with plainly(rows.values):
            rows, columns = _contiguous(rows), columns.contiguous()
            count = rows.values.shape[0]
            run, products, shape = self._pass(rows.values, columns.shape[0], scale)
            masks = Masks.of(Pairs("towers", offset), count)
            sums = SigmoidSums(scale.new_zeros(count), scale.new_zeros(count))
            weight = None if column_weight is None else column_weight.contiguous()

            def weigh(block: Tensor, tile: Tile) -> Tensor:
                return run.sigmoid(block, tile, masks, bias, weight, sums)

            gradient = None
            if gradients:
                gradient = row_gradients(run, products, shape, rows, columns, scale, weigh)
            else:
                for strip in strips(rows.values, shape):
                    run.take_rows(products.block(rows.values, strip, "rows"))
                    for tile in tiles(strip, columns, shape):
                        weigh(products.block(columns, tile.own_columns, "columns"), tile)
            return SigmoidPass(sums.losses, gradient, sums.weights)

    def mutual_sigmoid(
        self,
        rows: Rows,
        columns: Rows,
        scale: Tensor,
        bias: Tensor,
        *,
        gradients: bool,
    ) -> tuple[SigmoidPass, Gradient | None]:
        """See `Engine.mutual_sigmoid`; half precision as in `mutual_gradients`."""
        if not gradients or self.rounded(rows.values):
            found = self.sigmoid(rows, columns.values, scale, bias, 0, None, gradients=gradients)
            if not gradients:
                return found, None
            other = self.sigmoid(columns, rows.values, scale, bias, 0, None, gradients=True)
            return found, other.gradient
        with plainly(rows.values):
            rows, columns = _contiguous(rows), _contiguous(columns)
            count, wide = rows.values.shape[0], columns.values.shape[0]
            run, products, shape = self._pass(rows.values, wide, scale)
            masks = Masks.of(Pairs("towers"), count)
            sums = SigmoidSums(scale.new_zeros(count), scale.new_zeros(count))

            def weigh(block: Tensor, tile: Tile) -> Tensor:
                return run.sigmoid(block, tile, masks, bias, None, sums)

            first, second = mutual_gradients(run, products, shape, rows, columns, scale, weigh)
            return SigmoidPass(sums.losses, first, sums.weights), second

    def _pass(
        self, rows: Tensor, columns: int, scale: Tensor
    ) -> tuple[Operations, Products, TileShape]:
        shape = self.shape(rows, columns)
        products = self.products(rows)
        return self.operations(products, scale, shape), products, shape


@contextmanager
def plainly(rows: Tensor) -> Iterator[None]:
    """No autograd, and no autocast: products are of the dtype that they are asked for."""
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        yield


def _contiguous(rows: Rows) -> Rows:
    return Rows(rows.values.contiguous(), rows.inverse_norm)
