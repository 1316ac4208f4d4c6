"""Operations on tiles by PyTorch, in place, with one spare tile."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from edgessl.kernels.chunked.operations import Factors, QueueSums, SigmoidSums, Sums
from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape

__all__ = ["SOFTPLUS_LIMIT", "TorchOperations"]

SOFTPLUS_LIMIT = 40.0
"""Above, softplus(x) = x to the last bit of float64; PyTorch's default of 20 is for float32."""


class TorchOperations:
    """`edgessl.kernels.chunked.operations.Operations` for any device and dtype."""

    takes_logits: ClassVar[bool] = True

    def __init__(self, scale: Tensor, shape: TileShape) -> None:
        self._size = shape.rows * max(shape.rows, shape.columns)
        self._like = scale
        self._buffers: dict[torch.dtype, Tensor] = {}

    def sums(
        self, products: Tensor, tile: Tile, masks: Masks, rows: Sums, columns: Sums | None
    ) -> None:
        """See `Operations.sums`."""
        self._take_positives(products, tile, masks, rows, columns)
        for diagonal in (*masks.itself, *masks.positives):
            _fill(diagonal.view(products, tile), -torch.inf)
        if rows.largest is None:
            products.exp_()
            rows.total[tile.own_rows].add_(products.sum(1))
            if columns is not None:
                columns.total[tile.own_columns].add_(products.sum(0))
            return
        spare = self._spare(tile, products.dtype)
        _add_online(products, spare, rows.total[tile.own_rows], rows.largest[tile.own_rows], 1)
        if columns is not None and columns.largest is not None:
            total, largest = columns.total[tile.own_columns], columns.largest[tile.own_columns]
            _add_online(products, products, total, largest, 0)

    def weights(
        self,
        products: Tensor,
        tile: Tile,
        masks: Masks,
        rows: Factors,
        columns: Factors,
        out: Tensor,
    ) -> None:
        """See `Operations.weights`."""
        spare = self._spare(tile, products.dtype)
        row_weight = rows.weight[tile.own_rows, None]
        column_weight = columns.weight[None, tile.own_columns]
        row_pull = rows.pull[tile.own_rows, None]
        column_pull = columns.pull[None, tile.own_columns]
        if rows.shift is None or columns.shift is None:
            products.exp_()
            products.mul_(torch.add(row_weight, column_weight, out=spare))
        else:
            torch.sub(products, columns.shift[None, tile.own_columns], out=spare)
            spare.exp_().mul_(column_weight)
            products.sub_(rows.shift[tile.own_rows, None]).exp_().mul_(row_weight)
            products.add_(spare)
        same = masks.same_label(tile, self._mask(tile, masks))
        if same is not None:
            torch.add(row_pull, column_pull, out=spare)
            products.sub_(spare.mul_(same))
        for diagonal in masks.itself:
            _fill(diagonal.view(products, tile), 0.0)
        for diagonal in masks.positives:
            place, view = diagonal.within(tile), diagonal.view(products, tile)
            if place is not None and view is not None:
                view.copy_(rows.pull[place[0]] + columns.pull[place[1]]).neg_()
        _give(products, out)

    def sigmoid(
        self,
        products: Tensor,
        tile: Tile,
        masks: Masks,
        bias: Tensor,
        column_weight: Tensor | None,
        sums: SigmoidSums,
        out: Tensor,
        multiple: float,
    ) -> None:
        """See `Operations.sigmoid`."""
        products.add_(bias)
        # With the positives' sign turned, all pairs have the loss softplus(x) and the weight
        # ±σ(x): nothing is subtracted that cancels.
        positives = [diagonal.view(products, tile) for diagonal in masks.positives]
        for view in positives:
            _negate(view)
        spare = self._spare(tile, products.dtype)
        torch.ops.aten.softplus.out(products, 1, SOFTPLUS_LIMIT, out=spare)
        sums.losses[tile.own_rows].add_(spare.sum(1))
        products.sigmoid_()
        for view in positives:
            _negate(view)
        if column_weight is not None:
            products.mul_(column_weight[tile.own_columns])
        sums.weights[tile.own_rows].add_(products.sum(1))
        _give(products, out, multiple)

    def queue(
        self, products: Tensor, tile: Tile, sums: QueueSums, out: Tensor, multiple: float
    ) -> Tensor | None:
        """See `Operations.queue`."""
        total = sums.total[tile.own_rows]
        if sums.largest is None:
            total += products.exp_().sum(1)
            _give(products, out, multiple)
            return None
        decay = _add_online(products, products, total, sums.largest[tile.own_rows], 1)
        _give(products, out, multiple)
        return decay

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
        found = self._buffers.get(dtype)
        if found is None:
            found = torch.empty(self._size, dtype=dtype, device=self._like.device)
            self._buffers[dtype] = found
        return tile.of(found)


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


def _give(products: Tensor, out: Tensor, multiple: float = 1.0) -> None:
    """Round to ``out``, which may be the same tensor."""
    if multiple != 1.0:
        products.mul_(multiple)
    if out is not products:
        out.copy_(products)
