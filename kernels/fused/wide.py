"""The engine for D > 512: tiles as in `edgessl.kernels.chunked`, made by Triton kernels.

Statistics and unit rows are the fused ones, which read rows in parts. A gradient is made in two
steps: one kernel leaves a tile's weights, another multiplies them with the columns. That costs 2u
for the logits and 2u for the products, as the fused kernels do, and the traffic of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from edgessl.kernels.chunked.gradients import row_gradients
from edgessl.kernels.chunked.operations import Factors, Operations, SigmoidSums
from edgessl.kernels.chunked.products import Products
from edgessl.kernels.chunked.tiled import TiledEngine, plainly
from edgessl.kernels.chunked.tiling import Masks, Tile, TileShape
from edgessl.kernels.engine import QueuePass
from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.logits import Blocks, architecture, forward_blocks
from edgessl.kernels.fused.statistics import statistics
from edgessl.kernels.fused.wide_kernels import (
    add_products,
    finish_strip,
    sigmoid_weights,
    softmax_weights,
)
from edgessl.kernels.problem import SOFTPLUS_LIMIT, Gradient, Pairs, Rows, Terms

__all__ = ["ADD_BLOCKS", "ADD_LAUNCH", "FINISH_BLOCKS", "WideEngine", "wide_blocks"]

ADD_BLOCKS = (64, 128, 64)
"""Rows, width and step of `add_products`; 1024 rows of D = 768 make 96 programs."""

FINISH_BLOCKS = (16, 64)
"""Rows and step of `finish_strip`."""

ADD_LAUNCH = {"num_warps": 4, "num_stages": 3}
"""Of `add_products`."""

_PRECISION = "tf32x3"
_MOST_BYTES = 2**26


def wide_blocks(width: int, dtype: torch.dtype, arch: int) -> Blocks:
    """Tiles of the kernels that leave weights; arguments as of `forward_blocks`."""
    blocks = forward_blocks(width, dtype, arch, mutual=False)
    # Beside the labels of a 64×64 tile of float32, mma.sync leaves too few registers.
    return replace(blocks, columns=32) if dtype == torch.float32 and blocks.part < 32 else blocks


class WideProducts(Products):
    """Products of weights in half precision by Triton: added where the sums are.

    PyTorch's product of half precision in float32 would need a second matrix of sums.
    """

    def accumulate(self, sums: Tensor, weights: Tensor, columns: Tensor) -> None:
        """See `Products.accumulate`."""
        if not self.rounded:
            super().accumulate(sums, weights, columns)
            return
        (rows, count), width = weights.shape, columns.shape[1]
        high, wide, step = ADD_BLOCKS
        launch(
            add_products,
            (triton.cdiv(rows, high), triton.cdiv(width, wide)),
            sums,
            weights,
            columns,
            sums,
            rows,
            count,
            D=width,
            ROWS=high,
            WIDTH=wide,
            STEP=step,
            PRECISION=_PRECISION,
            **ADD_LAUNCH,
        )


@dataclass
class WideOperations:
    """`edgessl.kernels.chunked.operations.Operations` by Triton."""

    products: Products
    scale: Tensor
    shape: TileShape

    def __post_init__(self) -> None:
        """Room for one tile of weights."""
        size = self.shape.rows * max(self.shape.rows, self.shape.columns)
        self._weights = self.scale.new_empty(size, dtype=self.products.weights_dtype)
        self._rows = self.scale

    def take_rows(self, block: Tensor) -> None:
        """See `Operations.take_rows`."""
        self._rows = block

    def finish(self, sums: Tensor, rows: Rows, factor: Tensor, start: int, out: Gradient) -> None:
        """See `Operations.finish`."""
        own = slice(start, start + len(sums))
        high, part = FINISH_BLOCKS
        launch(
            finish_strip,
            (triton.cdiv(len(sums), high),),
            sums,
            sums,
            rows.values[own],
            None if rows.inverse_norm is None else rows.inverse_norm[own],
            factor,
            out.rows[own],
            out.along[own],
            len(sums),
            D=sums.shape[1],
            ROWS=high,
            PART=part,
            num_warps=4,
        )

    def weights(
        self, block: Tensor, tile: Tile, masks: Masks, rows: Factors, columns: Factors
    ) -> Tensor:
        """See `Operations.weights`."""
        out = tile.of(self._weights)
        blocks = wide_blocks(block.shape[1], block.dtype, architecture(block))
        high, wide = tile.shape
        launch(
            softmax_weights,
            (triton.cdiv(high, blocks.rows), triton.cdiv(wide, blocks.columns)),
            block,
            self._rows,
            block,
            self.scale,
            rows.shift,
            rows.weight,
            rows.pull,
            columns.shift,
            columns.weight,
            columns.pull,
            masks.row_labels,
            masks.column_labels,
            out,
            high,
            wide,
            tile.row,
            tile.column,
            masks.count // 2,
            masks.pairs.offset,
            KIND=masks.pairs.kind,
            BOUNDED=rows.shift is None,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            D=block.shape[1],
            PART=blocks.part,
            PRECISION=_PRECISION,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
        return out

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
        out = tile.of(self._weights)
        blocks = wide_blocks(block.shape[1], block.dtype, architecture(block))
        high, wide = tile.shape
        column_blocks = triton.cdiv(wide, blocks.columns)
        parts = self.scale.new_empty(2, column_blocks, high)
        launch(
            sigmoid_weights,
            (triton.cdiv(high, blocks.rows), column_blocks),
            block,
            self._rows,
            block,
            self.scale,
            bias,
            column_weight,
            parts[0],
            parts[1],
            out,
            high,
            wide,
            tile.row,
            tile.column,
            masks.pairs.offset,
            self.products.weights_scale,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            D=block.shape[1],
            PART=blocks.part,
            PRECISION=_PRECISION,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
        sums.losses[tile.own_rows].add_(parts[0].sum(0))
        sums.weights[tile.own_rows].add_(parts[1].sum(0))
        return out


class WideEngine(TiledEngine):
    """Gradients, sigmoid losses and the queue of `edgessl.kernels.engine.Engine` for any D.

    ``skip`` is ignored: the second product takes whole tiles.
    """

    def __init__(self, shape: TileShape | None = None) -> None:
        self._shape = shape

    def rounded(self, rows: Tensor) -> bool:
        """In half precision."""
        return rows.dtype in (torch.float16, torch.bfloat16)

    def shape(self, rows: Tensor, columns: int) -> TileShape:
        """Weights and sums that take a tenth of what rows and gradient take, 64 MB at most.

        Half of that, at least 512 rows, for a strip's sums, the rest for a tile's weights. At
        M = 16384, D = 768 in half precision these are 640 rows and 1920 columns.
        """
        if self._shape is not None:
            return self._shape
        (count, width), size = rows.shape, rows.element_size()
        # A little less than a tenth: the rows' vectors have to fit in, too.
        room = min(2 * rows.numel() * size * 9 // 100, _MOST_BYTES)
        high = min(max(room // 2 // (4 * width) // 128 * 128, 512), 2048)
        wide = max((room - 4 * high * width) // (high * size) // 128 * 128, 1024)
        return TileShape(min(count, high), max(1, min(columns, wide)))

    def products(self, rows: Tensor) -> Products:
        """Those of Triton."""
        return WideProducts(rows.dtype, rows.device, self.rounded(rows))

    def operations(self, products: Products, scale: Tensor, shape: TileShape) -> Operations:
        """Those of Triton."""
        return WideOperations(products, scale, shape)

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
        """See `Engine.queue`; the gradient is a pass of its own here, 6u for 4u."""
        with plainly(query.values):
            query = Rows(query.values.contiguous(), query.inverse_norm)
            queue, count = queue.contiguous(), len(query.values)
            # All of the queue are negatives: the positives lie beyond its end.
            pairs = Pairs("towers", len(queue))
            found = statistics(query.values, queue, scale, pairs, bounded=bounded, peaks=False)
            positive = (query.values.float() * key).sum(1) * scale
            margin = found.others - positive
            losses = F.softplus(margin, threshold=SOFTPLUS_LIMIT)
            pull = torch.sigmoid(margin)
            if not gradients:
                return QueuePass(losses, pull, None)
            shape = self.shape(query.values, len(queue))
            products = self.products(query.values)
            run = self.operations(products, scale, shape)
            masks = Masks.of(pairs, count)
            normalizer = torch.logaddexp(found.others, positive)
            terms = Terms(normalizer, torch.ones_like(pull), torch.zeros_like(pull))
            nothing = scale.new_zeros(len(queue))
            own = Factors.of(terms, bounded, products.weights_scale)
            other = Factors.of(Terms(nothing, nothing, nothing), bounded, 1.0)

            def weigh(block: Tensor, tile: Tile) -> Tensor:
                return run.weights(block, tile, masks, own, other)

            def begin(strip: slice, sums: Tensor) -> None:
                sums.copy_(key[strip]).mul_(pull[strip, None] * -products.weights_scale)

            gradient = row_gradients(run, products, shape, query, queue, scale, weigh, begin=begin)
            return QueuePass(losses, pull, gradient)
