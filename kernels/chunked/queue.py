"""InfoNCE of queries over a queue, with the gradient in the same pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgessl.kernels.chunked.elementwise import SOFTPLUS_LIMIT
from edgessl.kernels.chunked.logits import LogitTiles
from edgessl.kernels.chunked.operations import Operations, QueueSums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.scaling import empty_gradient, finish
from edgessl.kernels.chunked.tiling import Tile, TileShape, spans
from edgessl.kernels.engine import QueuePass
from edgessl.kernels.problem import Rows

__all__ = ["queue_pass"]


def queue_pass(
    operations: Operations,
    tiles: LogitTiles,
    products: Products,
    shape: TileShape,
    query: Rows,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    sums: QueueSums,
    *,
    gradients: bool,
) -> QueuePass:
    """Losses, pulls and, if asked for, gradients of the queries.

    Exponentials are added up relative to the largest logit so far, and so is their product with
    the queue; dividing by the whole sum at the end makes both probabilities.

    Source: arXiv:1911.05722, eq. 1; the running sums are those of arXiv:2205.14135.
    """
    count, width = query.values.shape
    losses, pull = scale.new_empty(count), scale.new_empty(count)
    out = empty_gradient(query) if gradients else None
    taken = scale.new_empty(min(shape.rows, count), width) if gradients else None
    for row, row_stop in spans(0, count, shape.rows):
        tiles.take_rows(query.values, row, row_stop)
        strip = None if taken is None else taken[: row_stop - row].zero_()
        for column, column_stop in spans(0, queue.shape[0], shape.columns):
            tile = Tile(row, row_stop, column, column_stop)
            logits, block = tiles.logits(tile, queue)
            weights = tiles.weights(tile, logits)
            decay = operations.queue(logits, tile, sums, weights, products.weights_scale)
            if strip is not None:
                if decay is not None:
                    strip.mul_(decay[:, None])
                products.accumulate(strip, weights, block)
        own = slice(row, row_stop)
        own_key = key[own].to(scale.dtype)
        positive = (query.values[own].to(scale.dtype) * own_key).sum(1).mul_(scale)
        largest = torch.zeros_like(positive) if sums.largest is None else sums.largest[own]
        others = sums.total[own].log() + largest
        margin = others - positive
        losses[own] = F.softplus(margin, threshold=SOFTPLUS_LIMIT)
        pull[own] = torch.sigmoid(margin)
        if strip is not None and out is not None:
            share = torch.exp(largest - torch.logaddexp(others, positive))
            strip.mul_(share[:, None] / products.weights_scale)
            strip.addcmul_(own_key, pull[own, None], value=-1)
            finish(strip, query, scale, row, out)
    return QueuePass(losses, pull, out)
