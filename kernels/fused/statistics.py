"""Statistics of rows: each program owns a block of rows and walks the columns.

One exponential for each pair if logits are bounded, with plain sums that just add; else a running
maximum besides. Where rows are few, the columns are split over programs, whose parts a second
kernel adds in a fixed order.

Source: running maximum: arXiv:1805.02867, algorithm 3; never storing the logits: arXiv:2410.17243.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.logits import (
    INFINITY,
    LN_2,
    Blocks,
    architecture,
    cells,
    forward_blocks,
    load_block,
    logarithm,
    processors,
    tile_products,
)
from edgessl.kernels.fused.tiles import LOG2_E
from edgessl.kernels.problem import Pairs, Statistics

__all__ = ["statistics"]

_TILES_OF_A_SPLIT = 4
"""A program that walks fewer tiles than this spends its time on starting."""


@triton.jit
def _row_sums(
    rows,
    columns,
    scale,
    row_labels,
    column_labels,
    maxima,
    sums,
    positive,
    positives,
    peaks,
    A,
    B,
    offset,
    split,
    KIND: tl.constexpr,
    BOUNDED: tl.constexpr,
    PEAKS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Parts of the statistics of ROWS rows, over ``split`` columns; logits count in base 2.

    ``maxima``, ``sums`` and, for labels, ``positive`` and ``positives`` are (splits, A); else
    ``positive`` is (A,): just one program meets it.
    """
    first = tl.program_id(0) * ROWS
    i = first + tl.arange(0, ROWS)
    inside = i < A
    own = i + offset
    target = own
    if KIND == "views":
        target = tl.where(i < A // 2, own + A // 2, own - A // 2)
    if KIND == "labels":
        label = tl.load(row_labels + i, mask=inside, other=0)
        pulled = tl.zeros((ROWS,), tl.float32)
        number = tl.zeros((ROWS,), tl.float32)
    factor = tl.load(scale) * LOG2_E
    KEPT: tl.constexpr = "x" if PART >= D else ""
    kept = load_block(rows, first, A, ROWS, 0, D, PART) if KEPT == "x" else 0

    total = tl.zeros((ROWS,), tl.float32)
    largest = tl.full((ROWS,), -INFINITY, tl.float32)
    begin = tl.program_id(1) * split
    for start in range(begin, min(begin + split, B), COLUMNS):
        s = factor * tile_products(
            rows, first, A, columns, start, B, kept, KEPT, ROWS, COLUMNS, D, PART, PRECISION
        )
        j = start + tl.arange(0, COLUMNS)
        # Most tiles hold neither the rows themselves nor positives and need no masks.
        apart = first + offset - start
        special = (start + COLUMNS > B) | ((apart < COLUMNS) & (apart + ROWS > 0))
        if KIND == "views":
            special |= (apart + A // 2 < COLUMNS) & (apart + A // 2 + ROWS > 0)
            special |= (apart - A // 2 < COLUMNS) & (apart - A // 2 + ROWS > 0)
        if PEAKS:
            special |= first + ROWS > A
        holds = 0
        if special:
            counts = (j[None, :] < B) & inside[:, None]
            if KIND != "towers":
                counts = counts & (j[None, :] != own[:, None])
            if KIND != "labels":
                here = inside & (target >= start) & (target < tl.minimum(start + COLUMNS, B))
                found = j[None, :] == target[:, None]
                own_positive = tl.sum(tl.where(found, s, 0.0), axis=1)
                tl.store(positive + i, own_positive * LN_2, mask=here)
                counts = counts & (j[None, :] != target[:, None])
                holds = tl.max(here.to(tl.int32), axis=0)
            s = tl.where(counts, s, -INFINITY)
        if KIND == "labels":
            other = tl.load(column_labels + j, mask=j < B, other=0)
            alike = (label[:, None] == other[None, :]) & (s != -INFINITY)
            pulled += tl.sum(tl.where(alike, s, 0.0), axis=1)
            met = tl.sum(tl.where(alike, 1.0, 0.0), axis=1)
            number += met
            if PEAKS:
                holds = (tl.max(met, axis=0) > 0).to(tl.int32)
        if PEAKS:
            peak = tl.max(tl.max(s, axis=1), axis=0) * LN_2
            tile = tl.program_id(0) * tl.cdiv(B, COLUMNS) + start // COLUMNS
            tl.store(peaks + tile, tl.where(holds != 0, INFINITY, peak))
        if BOUNDED:
            total += tl.sum(tl.exp2(s), axis=1)
        else:
            larger = tl.maximum(largest, tl.max(s, axis=1))
            # Rows that have met nothing yet: not −∞ − −∞.
            shift = tl.where(larger == -INFINITY, 0.0, larger)
            total = total * tl.exp2(largest - shift) + tl.sum(tl.exp2(s - shift[:, None]), axis=1)
            largest = larger

    place = tl.program_id(1) * A + i
    tl.store(sums + place, total, mask=inside)
    if not BOUNDED:
        tl.store(maxima + place, largest, mask=inside)
    if KIND == "labels":
        tl.store(positive + place, pulled * LN_2, mask=inside)
        tl.store(positives + place, number, mask=inside)


@triton.jit
def _join(
    maxima,
    sums,
    parts_positive,
    parts_positives,
    others,
    positive,
    positives,
    A,
    splits,
    LABELS: tl.constexpr,
    BOUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Statistics of all columns from those of the splits, in their order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < A
    largest = tl.zeros((BLOCK,), tl.float32)
    if not BOUNDED:
        largest = tl.full((BLOCK,), -INFINITY, tl.float32)
        for part in range(splits):
            one = tl.load(maxima + part * A + i, mask=inside, other=0.0)
            largest = tl.maximum(largest, one)
        largest = tl.where(largest == -INFINITY, 0.0, largest)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(splits):
        one = tl.load(sums + part * A + i, mask=inside, other=0.0)
        if not BOUNDED:
            one *= tl.exp2(tl.load(maxima + part * A + i, mask=inside, other=0.0) - largest)
        total += one
    tl.store(others + i, largest * LN_2 + logarithm(total), mask=inside)
    if LABELS:
        pulled = tl.zeros((BLOCK,), tl.float32)
        number = tl.zeros((BLOCK,), tl.float32)
        for part in range(splits):
            pulled += tl.load(parts_positive + part * A + i, mask=inside, other=0.0)
            number += tl.load(parts_positives + part * A + i, mask=inside, other=0.0)
        tl.store(positive + i, pulled / tl.maximum(number, 1.0), mask=inside)
        tl.store(positives + i, number, mask=inside)


def statistics(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    pairs: Pairs,
    *,
    bounded: bool,
    peaks: bool,
    splits: int | None = None,
) -> Statistics:
    """Statistics of the rows; see `edgessl.kernels.engine.Engine.statistics`.

    Args:
        rows: (A, D) float16, bfloat16 or float32.
        columns: (B, D) in the rows' dtype.
        scale: 0-dimensional float32.
        pairs: Which columns are positives, and which do not count.
        bounded: Rows and columns have unit length and scale ≤ 74.
        peaks: Whether to leave the largest logit of each cell.
        splits: Into how many parts to split the columns; None for as many as fill the device.
    """
    rows, columns = rows.contiguous(), columns.contiguous()
    count, width = rows.shape
    number = len(columns)
    blocks = forward_blocks(width, rows.dtype, architecture(rows), mutual=False, peaks=peaks)
    splits, split = _split_columns(count, number, blocks, processors(rows), splits)
    labels = pairs.kind == "labels"

    def vectors(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=rows.device)

    others, positive = vectors(count), vectors(count)
    sums = vectors(splits, count)
    maxima = None if bounded else vectors(splits, count)
    positives = vectors(count) if labels else None
    parts_positive = vectors(splits, count) if labels else positive
    parts_positives = vectors(splits, count) if labels else None
    tiles = None
    if peaks:
        tiles = vectors(triton.cdiv(count, blocks.rows), triton.cdiv(number, blocks.columns))
    launch(
        _row_sums,
        (triton.cdiv(count, blocks.rows), splits),
        rows,
        rows,
        columns,
        scale,
        _ready(pairs.row_labels),
        _ready(pairs.column_labels),
        maxima,
        sums,
        parts_positive,
        parts_positives,
        tiles,
        count,
        number,
        pairs.offset,
        split,
        KIND=pairs.kind,
        BOUNDED=bounded,
        PEAKS=peaks,
        ROWS=blocks.rows,
        COLUMNS=blocks.columns,
        D=width,
        PART=blocks.part,
        PRECISION="tf32x3",
        num_warps=blocks.warps,
        num_stages=blocks.stages,
    )
    launch(
        _join,
        (triton.cdiv(count, 128),),
        rows,
        maxima,
        sums,
        parts_positive,
        parts_positives,
        others,
        positive,
        positives,
        count,
        splits,
        LABELS=labels,
        BOUNDED=bounded,
        BLOCK=128,
        num_warps=4,
    )
    return Statistics(others, positive, positives, None if tiles is None else cells(tiles, blocks))


def _ready(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else labels.contiguous()


def _split_columns(
    count: int, number: int, blocks: Blocks, processors: int, splits: int | None
) -> tuple[int, int]:
    """How many splits of the columns, and how many columns each has: whole tiles."""
    tiles = triton.cdiv(number, blocks.columns)
    if splits is None:
        # Two programs for each multiprocessor, unless that leaves them next to nothing to do.
        splits = min(
            triton.cdiv(2 * processors, triton.cdiv(count, blocks.rows)),
            triton.cdiv(tiles, _TILES_OF_A_SPLIT),
        )
    each = triton.cdiv(tiles, max(1, splits))
    return triton.cdiv(tiles, each), each * blocks.columns
