"""Statistics of rows and columns in one pass, each pair's logit computed once.

Without columns only the pairs above the diagonal are computed. The rows go by in strips, one launch
for each, because each tile leaves sums of its rows, and those of all tiles would be as large as the
logits themselves divided by the tile's width. A program keeps a block of columns and walks a part
of the strip: the sums of its columns stay in registers and are added to a slot of their own; the
sums of its rows go to a buffer that a second kernel adds up in a fixed order. No atomics: the same
arguments give the same bits.

Only for bounded logits, whose sums just add. With a running maximum each pair would take two
exponentials and each tile reductions across warps, which cost what half the products save; then,
for labels, and for few rows, both sides are passes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.logits import (
    Blocks,
    architecture,
    cells,
    forward_blocks,
)
from edgessl.kernels.fused.statistics import statistics
from edgessl.kernels.fused.strips import add_row_parts, logarithms, strip_sums
from edgessl.kernels.problem import Pairs, Statistics

__all__ = ["Strips", "mutual_statistics", "strips_for"]

_LEAST = 2**34
"""A·B·D below which a second pass takes less time than the further launches of strips."""

_LOWEST = 1024
"""Rows below which strips are too low to fill a device."""

_PARTS = 8
"""Programs that share the rows of a strip, and slots of each column."""


@dataclass(frozen=True)
class Strips:
    """How the rows go by.

    Attributes:
        rows: Of one strip; a multiple of the tile's rows.
        parts: Into how many parts programs divide a strip.
    """

    rows: int
    parts: int


def strips_for(count: int, number: int, width: int, size: int, blocks: Blocks) -> Strips | None:
    """Strips whose buffers fit into the memory that the gradient takes later; None if too low.

    Args:
        count: Rows.
        number: Columns.
        width: D.
        size: Bytes of an element.
        blocks: Tiles of the kernel.
    """
    if count * number * width < _LEAST:
        return None
    free = 3 * count * width * size // 4 - 4 * _PARTS * number
    of_one_row = 4 * triton.cdiv(number, blocks.columns)
    step = blocks.rows * _PARTS
    # Strips of equal height, so that the last is not the one that leaves the device idle.
    most = free // of_one_row // step * step
    if most < _LOWEST:
        return None
    strips = triton.cdiv(count, most)
    return Strips(triton.cdiv(triton.cdiv(count, strips), step) * step, _PARTS)


def mutual_statistics(
    rows: Tensor,
    columns: Tensor | None,
    scale: Tensor,
    pairs: Pairs,
    *,
    bounded: bool,
    peaks: bool,
    strips: Strips | None = None,
) -> tuple[Statistics, Statistics]:
    """Statistics of rows and columns; see `edgessl.kernels.engine.Engine.mutual_statistics`.

    Args:
        rows: (A, D) float16, bfloat16 or float32.
        columns: (B, D) in the rows' dtype; None for the rows themselves.
        scale: 0-dimensional float32.
        pairs: Which columns are positives, and which do not count.
        bounded: Rows and columns have unit length and scale ≤ 74.
        peaks: Whether to leave the largest logit of each cell.
        strips: How the rows go by; None for what fits the memory and the device.
    """
    rows = rows.contiguous()
    others = rows if columns is None else columns.contiguous()
    blocks = forward_blocks(rows.shape[1], rows.dtype, architecture(rows), mutual=True, peaks=peaks)
    if strips is None:
        strips = strips_for(len(rows), len(others), rows.shape[1], rows.element_size(), blocks)
    aligned = pairs.offset == 0 and (pairs.kind == "views") == (columns is None)
    if strips is None or not bounded or not aligned or pairs.kind == "labels":
        return _two_passes(rows, columns, scale, pairs, bounded=bounded, peaks=peaks)
    return _in_strips(rows, columns, scale, peaks, blocks, strips)


def _two_passes(
    rows: Tensor,
    columns: Tensor | None,
    scale: Tensor,
    pairs: Pairs,
    *,
    bounded: bool,
    peaks: bool,
) -> tuple[Statistics, Statistics]:
    if columns is None:
        both = statistics(rows, rows, scale, pairs, bounded=bounded, peaks=peaks)
        return both, both
    first = statistics(rows, columns, scale, pairs, bounded=bounded, peaks=peaks)
    back = Pairs(pairs.kind, -pairs.offset, pairs.column_labels, pairs.row_labels)
    second = statistics(columns, rows, scale, back, bounded=bounded, peaks=False)
    transposed = None if first.peaks is None else first.peaks.T.contiguous()
    return first, Statistics(second.others, second.positive, second.positives, transposed)


def _in_strips(
    rows: Tensor,
    columns: Tensor | None,
    scale: Tensor,
    peaks: bool,
    blocks: Blocks,
    strips: Strips,
) -> tuple[Statistics, Statistics]:
    triangle = columns is None
    other = rows if columns is None else columns.contiguous()
    (count, width), number = rows.shape, len(other)
    column_blocks = triton.cdiv(number, blocks.columns)

    def vectors(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=rows.device)

    row_parts = vectors(column_blocks, strips.rows)
    slots = vectors(strips.parts, number).zero_()
    row_sums, others, positive = vectors(count), vectors(count), vectors(count)
    column_others = others if triangle else vectors(number)
    column_positive = positive if triangle else vectors(number)
    tiles = None
    if peaks:
        tiles = vectors(triton.cdiv(count, blocks.rows), column_blocks).fill_(-torch.inf)
    add_rows = min(32, blocks.rows)
    for strip in range(0, count, strips.rows):
        first_block = strip // blocks.columns if triangle else 0
        launch(
            strip_sums,
            (column_blocks - first_block, strips.parts),
            rows,
            rows,
            other,
            scale,
            row_parts,
            slots,
            positive,
            column_positive,
            tiles,
            count,
            number,
            strip,
            strips.rows,
            strips.rows // strips.parts,
            first_block,
            count // 2 if triangle else 0,
            TRIANGLE=triangle,
            PEAKS=peaks,
            AHEAD=blocks.ahead,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            D=width,
            PART=blocks.part,
            PRECISION="tf32x3",
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
        launch(
            add_row_parts,
            (triton.cdiv(min(strips.rows, count - strip), add_rows),),
            rows,
            row_parts,
            row_sums,
            count,
            number,
            strip,
            strips.rows,
            TRIANGLE=triangle,
            ROWS=blocks.rows,
            COLUMNS=blocks.columns,
            BLOCK=add_rows,
            STEP=64,
            num_warps=4,
        )
    launch(
        logarithms,
        (triton.cdiv(max(count, number), 128),),
        rows,
        row_sums,
        slots,
        others,
        column_others,
        count,
        number,
        strips.parts,
        TRIANGLE=triangle,
        BLOCK=128,
        num_warps=4,
    )
    # The tiles have done their work: free their sums before the peaks are put together.
    del row_parts, slots
    largest = None if tiles is None else cells(tiles, blocks)
    if triangle:
        if largest is not None:
            largest = torch.maximum(largest, largest.T)
        both = Statistics(others, positive, None, largest)
        return both, both
    transposed = None if largest is None else largest.T.contiguous()
    return (
        Statistics(others, positive, None, largest),
        Statistics(column_others, column_positive, None, transposed),
    )
