"""An engine that goes over the logits tile by tile, with any operations on the tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from edgessl.kernels.chunked.gradients import mutual_gradients, row_gradients
from edgessl.kernels.chunked.logits import LogitTiles
from edgessl.kernels.chunked.operations import Factors, Operations, QueueSums, SigmoidSums, Sums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.queue import queue_pass
from edgessl.kernels.chunked.scaling import unit_rows
from edgessl.kernels.chunked.statistics import add_sums
from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape, spans, tile_shape
from edgessl.kernels.engine import QueuePass, SigmoidPass
from edgessl.kernels.problem import Gradient, Pairs, Rows, Skip, Statistics, Terms

__all__ = ["TiledEngine"]


class TiledEngine:
    """`edgessl.kernels.engine.Engine`; ``peaks`` are not left and ``skip`` is ignored."""

    def __init__(
        self,
        operations: Callable[[Tensor, TileShape], Operations],
        *,
        rounded: Callable[[Tensor], bool],
        shape: TileShape | None = None,
    ) -> None:
        """An engine.

        Args:
            operations: Makes a pass's operations from its scale and the largest tile.
            rounded: Whether rows are multiplied in their own dtype, see `Products`.
            shape: Of tiles, if not `tile_shape`.
        """
        self._operations = operations
        self._rounded = rounded
        self._shape = shape

    def unit_rows(self, z: Tensor) -> Rows:
        """See `Engine.unit_rows`."""
        with _plain(z):
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
        with _plain(rows):
            rows, columns = rows.contiguous(), columns.contiguous()
            operations, tiles, _, shape = self._pass(rows, columns.shape[0], scale)
            sums = Sums.of(rows.shape[0], pairs, scale, bounded)
            masks = Masks.of(pairs, rows.shape[0])
            add_sums(operations, tiles, shape, rows, columns, masks, sums, None)
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
        with _plain(rows):
            rows = rows.contiguous()
            columns = None if columns is None else columns.contiguous()
            others = rows if columns is None else columns
            operations, tiles, _, shape = self._pass(rows, others.shape[0], scale)
            masks = Masks.of(pairs, rows.shape[0])
            row_sums = Sums.of(rows.shape[0], pairs, scale, bounded)
            column_sums = row_sums
            if columns is not None:
                column_sums = Sums.of(others.shape[0], pairs, scale, bounded)
            add_sums(operations, tiles, shape, rows, columns, masks, row_sums, column_sums)
            found = row_sums.statistics()
            return found, found if columns is None else column_sums.statistics()

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
        with _plain(rows.values):
            rows, columns = _contiguous(rows), columns.contiguous()
            operations, tiles, products, shape = self._pass(rows.values, columns.shape[0], scale)
            masks = Masks.of(pairs, rows.values.shape[0])
            own = Factors.of(row_terms, bounded, products.weights_scale)
            other = Factors.of(column_terms, bounded, products.weights_scale)

            def weigh(logits: Tensor, tile: Tile, out: Tensor) -> None:
                operations.weights(logits, tile, masks, own, other, out)

            return row_gradients(tiles, products, shape, rows, columns, factor, weigh)

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
        others = rows if columns is None else columns
        if self._rounded(rows.values):
            first = self.gradients(
                rows, others.values, scale, pairs, row_terms, column_terms, factor,
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
        with _plain(rows.values):
            rows = _contiguous(rows)
            columns = None if columns is None else _contiguous(columns)
            count, other_count = rows.values.shape[0], others.values.shape[0]
            operations, tiles, products, shape = self._pass(rows.values, other_count, scale)
            masks = Masks.of(pairs, count)
            own = Factors.of(row_terms, bounded, 1.0)
            other = own if columns is None else Factors.of(column_terms, bounded, 1.0)

            def weigh(logits: Tensor, tile: Tile, out: Tensor) -> None:
                operations.weights(logits, tile, masks, own, other, out)

            return mutual_gradients(tiles, products, shape, rows, columns, factor, weigh)

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
        with _plain(rows.values):
            rows, columns = _contiguous(rows), columns.contiguous()
            count, other_count = rows.values.shape[0], columns.shape[0]
            operations, tiles, products, shape = self._pass(rows.values, other_count, scale)
            masks = Masks.of(Pairs("towers", offset), count)
            sums = SigmoidSums(scale.new_zeros(count), scale.new_zeros(count))
            multiple = products.weights_scale
            weight = None if column_weight is None else column_weight.contiguous()

            def weigh(logits: Tensor, tile: Tile, out: Tensor) -> None:
                operations.sigmoid(logits, tile, masks, bias, weight, sums, out, multiple)

            if gradients:
                gradient = row_gradients(tiles, products, shape, rows, columns, scale, weigh)
                return SigmoidPass(sums.losses, gradient, sums.weights)
            for row, row_stop in spans(0, count, shape.rows):
                tiles.take_rows(rows.values, row, row_stop)
                for column, column_stop in spans(0, other_count, shape.columns):
                    tile = Tile(row, row_stop, column, column_stop)
                    logits, _ = tiles.logits(tile, columns)
                    weigh(logits, tile, logits)
            return SigmoidPass(sums.losses, None, sums.weights)

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
        if not gradients or self._rounded(rows.values):
            found = self.sigmoid(rows, columns.values, scale, bias, 0, None, gradients=gradients)
            if not gradients:
                return found, None
            other = self.sigmoid(columns, rows.values, scale, bias, 0, None, gradients=True)
            return found, other.gradient
        with _plain(rows.values):
            rows, columns = _contiguous(rows), _contiguous(columns)
            count, other_count = rows.values.shape[0], columns.values.shape[0]
            operations, tiles, products, shape = self._pass(rows.values, other_count, scale)
            masks = Masks.of(Pairs("towers"), count)
            sums = SigmoidSums(scale.new_zeros(count), scale.new_zeros(count))

            def weigh(logits: Tensor, tile: Tile, out: Tensor) -> None:
                operations.sigmoid(logits, tile, masks, bias, None, sums, out, 1.0)

            first, second = mutual_gradients(tiles, products, shape, rows, columns, scale, weigh)
            return SigmoidPass(sums.losses, first, sums.weights), second

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
        with _plain(query.values):
            query, queue = _contiguous(query), queue.contiguous()
            count = query.values.shape[0]
            operations, tiles, products, shape = self._pass(query.values, queue.shape[0], scale)
            # Rounded to half precision, exp(s) itself might leave its range.
            plain = bounded and not products.rounded
            lowest = torch.finfo(scale.dtype).min
            largest = None if plain else scale.new_full((count,), lowest)
            sums = QueueSums(scale.new_zeros(count), largest)
            return queue_pass(
                operations, tiles, products, shape, query, key, queue, scale, sums,
                gradients=gradients,
            )  # fmt: skip

    def _pass(
        self, rows: Tensor, columns: int, scale: Tensor
    ) -> tuple[Operations, LogitTiles, Products, TileShape]:
        shape = self._shape or tile_shape(rows, columns)
        products = Products(rows.dtype, rows.device, self._rounded(rows))
        operations = self._operations(scale, shape)
        return operations, LogitTiles(operations, products, shape, scale), products, shape


def _contiguous(rows: Rows) -> Rows:
    return Rows(rows.values.contiguous(), rows.inverse_norm)


@contextmanager
def _plain(rows: Tensor) -> Iterator[None]:
    """No autograd, and no autocast: products are of the dtype that they are asked for."""
    with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
        yield
