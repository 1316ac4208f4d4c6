"""Operations on tiles by PyTorch, in place, with one spare tile."""

from __future__ import annotations

import torch
from torch import Tensor

from edgessl.kernels.chunked.operations import Factors, SigmoidSums, Sums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.scaling import finish
from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape
from edgessl.kernels.problem import SOFTPLUS_LIMIT, Gradient, Rows

__all__ = ["TorchOperations"]


class TorchOperations:
    """`edgessl.kernels.chunked.operations.Operations` for any device and dtype."""

    def __init__(self, products: Products, scale: Tensor, shape: TileShape) -> None:
        self._products, self._scale = products, scale
        self._size = shape.rows * max(shape.rows, shape.columns)
        self._buffers: dict[object, Tensor] = {}
        self._rows = scale

    def take_rows(self, block: Tensor) -> None:
        """See `Operations.take_rows`."""
        # Where rows are float32 (or float64) anyway, scaling them is cheaper than scaling tiles.
        rounded = self._products.rounded
        self._rows = block if rounded else self._products.scaled(block, self._scale)

    def sums(
        self, block: Tensor, tile: Tile, masks: Masks, rows: Sums, columns: Sums | None
    ) -> None:
        """See `Operations.sums`."""
        if rows is columns and tile.row == tile.column:
            columns = None  # the rows have both halves of the square
        logits = self._logits(block, tile)
        self._take_positives(logits, tile, masks, rows, columns)
        for diagonal in (*masks.itself, *masks.positives):
            _fill(diagonal.view(logits, tile), -torch.inf)
        if rows.largest is None:
            logits.exp_()
            rows.total[tile.own_rows].add_(logits.sum(1))
            if columns is not None:
                columns.total[tile.own_columns].add_(logits.sum(0))
            return
        spare = self._spare(tile, logits.dtype)
        _add_online(logits, spare, rows.total[tile.own_rows], rows.largest[tile.own_rows], 1)
        if columns is not None and columns.largest is not None:
            total, largest = columns.total[tile.own_columns], columns.largest[tile.own_columns]
            _add_online(logits, logits, total, largest, 0)

    def finish(self, sums: Tensor, rows: Rows, factor: Tensor, start: int, out: Gradient) -> None:
        """See `Operations.finish`."""
        finish(sums, rows, factor, start, out)

    def weights(
        self, block: Tensor, tile: Tile, masks: Masks, rows: Factors, columns: Factors
    ) -> Tensor:
        """See `Operations.weights`."""
        weights = self._logits(block, tile)
        spare = self._spare(tile, weights.dtype)
        row_weight = rows.weight[tile.own_rows, None]
        column_weight = columns.weight[None, tile.own_columns]
        if rows.shift is None or columns.shift is None:
            weights.exp_()
            weights.mul_(torch.add(row_weight, column_weight, out=spare))
        else:
            torch.sub(weights, columns.shift[None, tile.own_columns], out=spare)
            spare.exp_().mul_(column_weight)
            weights.sub_(rows.shift[tile.own_rows, None]).exp_().mul_(row_weight)
            weights.add_(spare)
        same = masks.same_label(tile, self._mask(tile, masks))
        if same is not None:
            row_pull, column_pull = rows.pull[tile.own_rows, None], columns.pull[tile.own_columns]
            torch.add(row_pull, column_pull, out=spare)
            weights.sub_(spare.mul_(same))
        for diagonal in masks.itself:
            _fill(diagonal.view(weights, tile), 0.0)
        for diagonal in masks.positives:
            place, view = diagonal.within(tile), diagonal.view(weights, tile)
            if place is not None and view is not None:
                view.copy_(rows.pull[place[0]] + columns.pull[place[1]]).neg_()
        return self._rounded(weights, tile)

    def sigmoid(
        self,
        block: Tensor,
        tile: Tile,
        masks: Masks,
        bias: Tensor,
        column_weight: Tensor | None,
        sums: SigmoidSums,
    ) -> Tensor:
        """See `Operations.sigmoid`."""
        weights = self._logits(block, tile).add_(bias)
        # With the positives' sign turned, all pairs have the loss softplus(x) and the weight
        # ±σ(x): nothing is subtracted that cancels.
        positives = [diagonal.view(weights, tile) for diagonal in masks.positives]
        for view in positives:
            _negate(view)
        spare = self._spare(tile, weights.dtype)
        torch.ops.aten.softplus.out(weights, 1, SOFTPLUS_LIMIT, out=spare)
        sums.losses[tile.own_rows].add_(spare.sum(1))
        weights.sigmoid_()
        for view in positives:
            _negate(view)
        if column_weight is not None:
            weights.mul_(column_weight[tile.own_columns])
        sums.weights[tile.own_rows].add_(weights.sum(1))
        if self._products.weights_scale != 1.0:
            weights.mul_(self._products.weights_scale)
        return self._rounded(weights, tile)

    def queue(
        self, block: Tensor, tile: Tile, total: Tensor, largest: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """exp(s − largest) as weights, added to ``total``; and how much older sums decay.

        Args:
            block: Columns of the queue.
            tile: Of which rows and columns.
            total: (A,) of all rows.
            largest: (A,) largest logits so far, or None for exp(s); is brought up to date.
        """
        weights, total = self._logits(block, tile), total[tile.own_rows]
        decay = None
        if largest is None:
            total.add_(weights.exp_().sum(1))
        else:
            decay = _add_online(weights, weights, total, largest[tile.own_rows], 1)
        if self._products.weights_scale != 1.0:
            weights.mul_(self._products.weights_scale)
        return self._rounded(weights, tile), decay

    def _logits(self, block: Tensor, tile: Tile) -> Tensor:
        buffer = self._buffer("logits", self._scale.dtype)
        logits = self._products.logits(self._rows, block, tile.of(buffer))
        return logits.mul_(self._scale) if self._products.rounded else logits

    def _rounded(self, weights: Tensor, tile: Tile) -> Tensor:
        if not self._products.rounded:
            return weights
        return tile.of(self._buffer("weights", self._products.weights_dtype)).copy_(weights)

    def _take_positives(
        self, logits: Tensor, tile: Tile, masks: Masks, rows: Sums, columns: Sums | None
    ) -> None:
        for diagonal in masks.positives:
            place, view = diagonal.within(tile), diagonal.view(logits, tile)
            if place is not None and view is not None:
                rows.positive[place[0]] = view
                if columns is not None:
                    columns.positive[place[1]] = view
        same = masks.same_label(tile, self._mask(tile, masks))
        if same is None or rows.positives is None:
            return
        chosen = torch.mul(logits, same, out=self._spare(tile, logits.dtype))
        rows.positive[tile.own_rows].add_(chosen.sum(1))
        rows.positives[tile.own_rows].add_(same.sum(1))
        if columns is not None and columns.positives is not None:
            columns.positive[tile.own_columns].add_(chosen.sum(0))
            columns.positives[tile.own_columns].add_(same.sum(0))

    def _mask(self, tile: Tile, masks: Masks) -> Tensor | None:
        return None if masks.row_labels is None else self._spare(tile, torch.bool)

    def _spare(self, tile: Tile, dtype: torch.dtype) -> Tensor:
        return tile.of(self._buffer(dtype, dtype))

    def _buffer(self, name: object, dtype: torch.dtype) -> Tensor:
        found = self._buffers.get(name)
        if found is None:
            found = torch.empty(self._size, dtype=dtype, device=self._scale.device)
            self._buffers[name] = found
        return found


def _add_online(logits: Tensor, out: Tensor, total: Tensor, largest: Tensor, dim: int) -> Tensor:
    """exp(s − largest) in ``out``, with both vectors brought up to date; gives the old sums' decay.

    Source: arXiv:1805.02867, algorithm 3.
    """
    now = torch.maximum(largest, logits.amax(dim))
    torch.sub(logits, now.unsqueeze(dim), out=out).exp_()
    decay = largest.sub_(now).exp_().clone()
    total.mul_(decay).add_(out.sum(dim))
    largest.copy_(now)
    return decay


def _fill(view: Tensor | None, value: float) -> None:
    if view is not None:
        view.fill_(value)


def _negate(view: Tensor | None) -> None:
    if view is not None:
        view.neg_()
