"""InfoNCE of queries over a queue, with the gradient in the same pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgessl.kernels.chunked.elementwise import TorchOperations
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.scaling import empty_gradient, finish
from edgessl.kernels.chunked.tiling import TileShape, strips, tiles
from edgessl.kernels.engine import QueuePass
from edgessl.kernels.problem import SOFTPLUS_LIMIT, Rows

__all__ = ["queue_pass"]


def queue_pass(
    operations: TorchOperations,
    products: Products,
    shape: TileShape,
    query: Rows,
    key: Tensor,
    queue: Tensor,
    scale: Tensor,
    *,
    bounded: bool,
    gradients: bool,
) -> QueuePass:
    """Losses, pulls and, if asked for, gradients of the queries.

    Exponentials are added up relative to the largest logit so far, and so is their product with
    the queue; dividing by the whole sum at the end makes both probabilities.

    Source: arXiv:1911.05722, eq. 1; the running sums are those of arXiv:2205.14135.
    """
    count = query.values.shape[0]
    losses, pull, total = scale.new_empty(count), scale.new_empty(count), scale.new_zeros(count)
    # Rounded to half precision, exp(s) itself might leave its range.
    plain = bounded and not products.rounded
    largest = None if plain else scale.new_full((count,), torch.finfo(scale.dtype).min)
    out = empty_gradient(query) if gradients else None
    sums = scale.new_empty(shape.rows, queue.shape[1]) if gradients else None
    for strip in strips(query.values, shape):
        operations.take_rows(products.block(query.values, strip, "rows"))
        taken = None if sums is None else sums[: strip.stop - strip.start].zero_()
        for tile in tiles(strip, queue, shape):
            block = products.block(queue, tile.own_columns, "columns")
            weights, decay = operations.queue(block, tile, total, largest)
            if taken is not None:
                if decay is not None:
                    taken.mul_(decay[:, None])
                products.accumulate(taken, weights, block)
        own_key = key[strip].to(scale.dtype)
        positive = (query.values[strip].to(scale.dtype) * own_key).sum(1).mul_(scale)
        shift = torch.zeros_like(positive) if largest is None else largest[strip]
        others = total[strip].log() + shift
        margin = others - positive
        losses[strip] = F.softplus(margin, threshold=SOFTPLUS_LIMIT)
        pull[strip] = torch.sigmoid(margin)
        if taken is not None and out is not None:
            share = torch.exp(shift - torch.logaddexp(others, positive))
            taken.mul_(share[:, None] / products.weights_scale)
            taken.addcmul_(own_key, pull[strip, None], value=-1)
            finish(taken, query, scale, strip.start, out)
    return QueuePass(losses, pull, out)
