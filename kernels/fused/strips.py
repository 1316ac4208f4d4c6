"""Kernels of the strips of `edgessl.kernels.fused.mutual`, in the order in which they run."""

from __future__ import annotations

import triton
import triton.language as tl

from edgessl.kernels.fused.logits import INFINITY, LN_2, load_block, logarithm, tile_products
from edgessl.kernels.fused.tiles import LOG2_E

__all__ = ["add_row_parts", "logarithms", "strip_sums"]


@triton.jit
def _store_positives(
    logits,
    first,
    start,
    A,
    B,
    shift,
    positive,
    column_positive,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store the positives that a tile holds; a tile's masks and this at once would spill."""
    row = tl.arange(0, ROWS)
    # Counted from the tile's first row: columns known before the loop would fill registers.
    column = tl.arange(0, COLUMNS) + (start - first)
    target = row + shift
    here = (row < A - first) & (target >= start - first)
    here = here & (target < tl.minimum(start + COLUMNS, B) - first)
    found = column[None, :] == target[:, None]
    own = tl.sum(tl.where(found, logits, 0.0), axis=1) * LN_2
    tl.store(positive + first + row, own, mask=here)
    tl.store(column_positive + first + target, own, mask=here)


@triton.jit
def _tile(
    logits,
    first,
    start,
    A,
    B,
    shift,
    row_parts,
    peak_place,
    column_sums,
    MASKED: tl.constexpr,
    TRIANGLE: tl.constexpr,
    PEAKS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store what a tile leaves of its rows; returns ``column_sums`` with the tile's added.

    ``logits``: (ROWS, COLUMNS) in base 2; ``column_sums``: (ROWS/16, 8, COLUMNS), the sums of
    the rows of each thread, which are eight apart.
    """
    row = tl.arange(0, ROWS)
    holds = 0
    if MASKED:
        column = tl.arange(0, COLUMNS) + (start - first)
        target = row + shift
        inside = row < A - first
        counts = (column[None, :] < B - first) & inside[:, None]
        counts = counts & (column[None, :] != target[:, None])
        if TRIANGLE:
            counts = counts & (column[None, :] > row[:, None])
        logits = tl.where(counts, logits, -INFINITY)
        here = inside & (target >= start - first)
        here = here & (target < tl.minimum(start + COLUMNS, B) - first)
        holds = tl.max(here.to(tl.int32), axis=0)
    if PEAKS:
        peak = tl.max(tl.max(logits, axis=1), axis=0) * LN_2
        tl.store(peak_place, tl.where(holds != 0, INFINITY, peak))
    weights = tl.exp2(logits)
    tl.store(row_parts + row, tl.sum(weights, axis=1))
    pairs_of_rows = tl.reshape(weights, (ROWS // 16, 2, 8, COLUMNS))
    return column_sums + tl.sum(pairs_of_rows, axis=1)


@triton.jit
def strip_sums(
    rows,
    columns,
    scale,
    row_parts,
    slots,
    positive,
    column_positive,
    peaks,
    A,
    B,
    strip,
    strip_rows,
    part_rows,
    first_block,
    shift,
    TRIANGLE: tl.constexpr,
    PEAKS: tl.constexpr,
    AHEAD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Sums of exp(s) of one block of columns over a part of a strip, and of each tile's rows.

    ``row_parts`` (⌈B/COLUMNS⌉, strip_rows) of the rows from ``strip`` on; ``slots`` (parts, B);
    the positive of row i is column i + ``shift``; ``first_block``: the first block of columns.
    """
    block = first_block + tl.program_id(0)
    start = block * COLUMNS
    begin = strip + tl.program_id(1) * part_rows
    end = tl.minimum(begin + part_rows, A)
    if TRIANGLE:
        end = tl.minimum(end, start + COLUMNS)
    factor = tl.load(scale) * LOG2_E
    KEPT: tl.constexpr = "y" if PART >= D else ""
    kept = load_block(columns, start, B, COLUMNS, 0, D, PART) if KEPT == "y" else 0
    width = tl.cdiv(B, COLUMNS)
    own_parts = row_parts + block.to(tl.int64) * strip_rows - strip
    sums = tl.zeros((ROWS // 16, 8, COLUMNS), tl.float32)

    # Rows whose positives are among the columns: whole tiles from ``band`` to ``behind``.
    band = tl.maximum(start - shift, 0) // ROWS * ROWS
    behind = tl.cdiv(tl.maximum(start - shift + COLUMNS, 0), ROWS) * ROWS
    for first in tl.range(tl.maximum(begin, band), tl.minimum(behind, end), ROWS, num_stages=1):
        logits = factor * tile_products(
            rows, first, A, columns, start, B, kept, KEPT, ROWS, COLUMNS, D, PART, PRECISION
        )
        _store_positives(
            logits, first, start, A, B, shift, positive, column_positive, ROWS, COLUMNS
        )

    # Tiles without masks, then tiles with, twice: to the end of the positives' band, and to the
    # diagonal or the last row. A branch in one loop would cost registers, which spill.
    ragged = A // ROWS * ROWS
    if TRIANGLE:
        ragged = tl.minimum(ragged, start // ROWS * ROWS)
    if start + COLUMNS > B:
        ragged = 0
    for half in range(2):
        masked_end = end
        if half == 0:
            masked_end = tl.minimum(tl.maximum(behind, begin), end)
        whole_end = tl.minimum(ragged, masked_end)
        if half == 0:
            whole_end = tl.minimum(whole_end, band)
        whole_end = tl.maximum(whole_end, begin)
        if AHEAD:
            # The tensor cores multiply the next tile while this one's exponentials are taken.
            if begin < whole_end:
                current = tile_products(
                    rows, begin, A, columns, start, B, kept, KEPT, ROWS, COLUMNS, D, PART, PRECISION
                )
                for first in range(begin, whole_end - ROWS, ROWS):
                    following = tile_products(
                        rows,
                        first + ROWS,
                        A,
                        columns,
                        start,
                        B,
                        kept,
                        KEPT,
                        ROWS,
                        COLUMNS,
                        D,
                        PART,
                        PRECISION,
                    )
                    sums = _tile(
                        factor * current,
                        first,
                        start,
                        A,
                        B,
                        shift,
                        own_parts + first,
                        (peaks + (first // ROWS) * width + block if PEAKS else 0),
                        sums,
                        False,
                        TRIANGLE,
                        PEAKS,
                        ROWS,
                        COLUMNS,
                    )
                    current = following
                first = whole_end - ROWS
                sums = _tile(
                    factor * current,
                    first,
                    start,
                    A,
                    B,
                    shift,
                    own_parts + first,
                    (peaks + (first // ROWS) * width + block if PEAKS else 0),
                    sums,
                    False,
                    TRIANGLE,
                    PEAKS,
                    ROWS,
                    COLUMNS,
                )
        else:
            for first in range(begin, whole_end, ROWS):
                logits = factor * tile_products(
                    rows, first, A, columns, start, B, kept, KEPT, ROWS, COLUMNS, D, PART, PRECISION
                )
                sums = _tile(
                    logits,
                    first,
                    start,
                    A,
                    B,
                    shift,
                    own_parts + first,
                    (peaks + (first // ROWS) * width + block if PEAKS else 0),
                    sums,
                    False,
                    TRIANGLE,
                    PEAKS,
                    ROWS,
                    COLUMNS,
                )
        for first in tl.range(whole_end, masked_end, ROWS, num_stages=1):
            logits = factor * tile_products(
                rows, first, A, columns, start, B, kept, KEPT, ROWS, COLUMNS, D, PART, PRECISION
            )
            sums = _tile(
                logits,
                first,
                start,
                A,
                B,
                shift,
                own_parts + first,
                (peaks + (first // ROWS) * width + block if PEAKS else 0),
                sums,
                True,
                TRIANGLE,
                PEAKS,
                ROWS,
                COLUMNS,
            )
        begin = tl.maximum(masked_end, begin)

    j = start + tl.arange(0, COLUMNS)
    slot = slots + tl.program_id(1).to(tl.int64) * B + j
    before = tl.load(slot, mask=j < B, other=0.0)
    tl.store(slot, before + tl.sum(tl.sum(sums, axis=0), axis=0), mask=j < B)


@triton.jit
def add_row_parts(
    row_parts,
    row_sums,
    A,
    B,
    strip,
    strip_rows,
    TRIANGLE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    """Sums over all blocks of columns for BLOCK rows of a strip; BLOCK divides ROWS."""
    local = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (local < strip_rows) & (strip + local < A)
    blocks = tl.cdiv(B, COLUMNS)
    first_block = 0
    if TRIANGLE:
        # Blocks left of the tile that the diagonal meets first have no program.
        first_block = (strip + tl.program_id(0) * BLOCK) // ROWS * ROWS // COLUMNS
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(first_block, blocks, STEP):
        block = start + tl.arange(0, STEP)
        place = block.to(tl.int64)[:, None] * strip_rows + local[None, :]
        mask = (block < blocks)[:, None] & inside[None, :]
        total += tl.sum(tl.load(row_parts + place, mask=mask, other=0.0), axis=0)
    tl.store(row_sums + strip + local, total, mask=inside)


@triton.jit
def logarithms(
    row_sums,
    slots,
    others,
    column_others,
    A,
    B,
    parts,
    TRIANGLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Logarithms of the sums; without columns of their own, a row's are those of both kinds."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(parts):
        total += tl.load(slots + part * B + i, mask=i < B, other=0.0)
    of_rows = tl.load(row_sums + i, mask=i < A, other=0.0)
    if TRIANGLE:
        tl.store(others + i, logarithm(of_rows + total), mask=i < A)
    else:
        tl.store(others + i, logarithm(of_rows), mask=i < A)
        tl.store(column_others + i, logarithm(total), mask=i < B)
