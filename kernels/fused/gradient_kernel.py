"""Row-owned backward kernel: a program keeps rows and their gradient, and walks the columns."""

from __future__ import annotations

import triton
import triton.language as tl

from edgessl.kernels.fused.finish import finish_rows, store_rows
from edgessl.kernels.fused.tiles import LOG2_E, load_rows, products, weighted_rows

__all__ = ["gradient_kernel", "prepare_terms"]

# Weights of a softmax over M columns are about 1/M and would vanish in float16, whose smallest
# number is 2^-24; |W| ≤ 4 leaves room for 13 bits.
_HALF_BITS = tl.constexpr(13)

# For bounded logits, |s·log₂e| ≤ 107, W = 2^(s₂ − 18)·(a·2^(18 − Lᵢ₂) + b·2^(18 − Lⱼ₂)). The 18
# keeps every power within float32's normal range for L of −74 (M = 2, opposed rows) to 99
# (M = e^25 equal rows); without it L > 87 (10^6 equal rows) would flush to 0.
_MIDDLE = tl.constexpr(18)


@triton.jit
def _overlaps(start, LENGTH: tl.constexpr, other, OTHER_LENGTH: tl.constexpr):
    """Whether two ranges of columns have one in common."""
    return (start < other + OTHER_LENGTH) & (other < start + LENGTH)


@triton.jit
def prepare_terms(
    log_normalizer, weight, factors, shifts, count, HALF: tl.constexpr, BLOCK: tl.constexpr
):
    """What `gradient_kernel` reads of each row or column instead of L and a, once for all tiles.

    Bounded (``shifts`` None): ``factors`` a·2^(18 − L₂), with L₂ = L·log₂e. Else ``shifts`` L₂ (13
    less for float16) and no ``factors``. L = −∞, of a row without others, whose exponentials are
    all masked, counts as +∞: 2^(s − L) is then 0 and not ∞, which ragged columns would turn into
    NaN.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    shift = tl.load(log_normalizer + index, mask=inside, other=float("inf")) * LOG2_E
    shift = tl.where(shift == float("-inf"), float("inf"), shift)
    if shifts is None:
        a = tl.load(weight + index, mask=inside, other=0.0)
        tl.store(factors + index, a * tl.exp2(-(shift - _MIDDLE)), mask=inside)
    else:
        tl.store(shifts + index, shift - (_HALF_BITS if HALF else 0), mask=inside)


@triton.jit
def _stepwise_products(
    rows,
    row,
    row_count,
    columns,
    column,
    column_count,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(BLOCK_M, BLOCK_N) inner products, of STEP columns of the matrices at a time.

    For float32, whose products in three parts would else keep three copies of all rows at hand.
    """
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    row_place = rows + row.to(tl.int64)[:, None] * D
    column_place = columns + column.to(tl.int64)[:, None] * D
    for first in range(0, D, STEP):
        at = first + tl.arange(0, STEP)[None, :]
        x = tl.load(row_place + at, mask=(row[:, None] < row_count) & (at < D), other=0.0)
        y = tl.load(column_place + at, mask=(column[:, None] < column_count) & (at < D), other=0.0)
        sums += products(x, y, PRECISION)
    return sums


@triton.jit
def gradient_kernel(
    rows,
    columns,
    row_labels,
    column_labels,
    row_factors,
    row_shifts,
    row_pull,
    column_factors,
    column_shifts,
    column_pull,
    scale,
    factor,
    inverse_norm,
    kept_cells,
    kept_numbers,
    out,
    along,
    row_count,
    column_count,
    cell_count,
    offset,
    KIND: tl.constexpr,
    BOUNDED: tl.constexpr,
    SKIPPING: tl.constexpr,
    SPLIT: tl.constexpr,
    CELL: tl.constexpr,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """factor · Σⱼ W_ij·cⱼ of BLOCK_M rows, W as in `edgessl.kernels.problem`.

    Grid: (⌈A/BLOCK_M⌉, splits). ``rows`` (A, D), ``columns`` (B, D); ``row_…`` (A,) and
    ``column_…`` (B,) float32: factors as `prepare_terms` leaves them if BOUNDED, else the weights,
    with shifts; ``scale`` and ``factor`` one float32 each. STEP 0: whole rows stay on the chip.

    With SKIPPING, programs walk only ``kept_numbers[c]`` cells of columns, in ``kept_cells[c]``
    (``cell_count`` wide) of CELL columns, c being the cell of their rows. With SPLIT, ``out`` is
    (splits, A, D) float32 sums over parts of the columns and ``along`` None; else as `finish_rows`
    leaves them.

    Source: the derivative of InfoNCE, arXiv:1807.03748, eq. 4, with both the row's and the
    column's normaliser; memory linear in the rows as in arXiv:2205.14135, §3.1.
    """
    half: tl.constexpr = columns.dtype.element_ty == tl.float16
    lifted: tl.constexpr = _HALF_BITS if half else 0
    power: tl.constexpr = 2.0**lifted

    first_row = tl.program_id(0) * BLOCK_M
    row = first_row + tl.arange(0, BLOCK_M)
    row_inside = row < row_count
    if STEP == 0:
        own = load_rows(rows, row, row_count, D, BLOCK_D)
    slope = tl.load(scale) * LOG2_E
    a = tl.load(row_factors + row, mask=row_inside, other=0.0)
    alpha = tl.load(row_pull + row, mask=row_inside, other=0.0) * power
    if not BOUNDED:
        row_shift = tl.load(row_shifts + row, mask=row_inside, other=float("inf"))
    if KIND == "labels":
        row_label = tl.load(row_labels + row, mask=row_inside, other=0)

    ragged = first_row + BLOCK_M > row_count
    # Columns of these rows themselves, and of their positives in views.
    itself = row + offset
    half_way = row_count // 2
    first_other = first_row + half_way
    if KIND == "views":
        positive = row + half_way
        positive = tl.where(positive < row_count, positive, positive - row_count) + offset
    else:
        positive = itself

    if SKIPPING:
        cell_row = first_row // CELL
        number = tl.load(kept_numbers + cell_row) * (CELL // BLOCK_N)
        kept_cells += cell_row.to(tl.int64) * cell_count
    else:
        number = tl.cdiv(column_count, BLOCK_N)
    share = tl.cdiv(number, tl.num_programs(1))
    begin = tl.program_id(1) * share
    end = tl.minimum(begin + share, number)

    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for tile in range(begin, end):
        if SKIPPING:
            place = tile * BLOCK_N
            start = tl.load(kept_cells + place // CELL) * CELL + place % CELL
        else:
            start = tile * BLOCK_N
        column = start + tl.arange(0, BLOCK_N)
        column_inside = column < column_count
        other = load_rows(columns, column, column_count, D, BLOCK_D)
        b = tl.load(column_factors + column, mask=column_inside, other=0.0)
        if STEP == 0:
            logits = products(own, other, PRECISION) * slope
        else:
            logits = slope * _stepwise_products(
                rows,
                row,
                row_count,
                columns,
                column,
                column_count,
                D,
                BLOCK_M,
                BLOCK_N,
                STEP,
                PRECISION,
            )

        # Most tiles hold neither an edge, nor a row itself, nor (but for labels) a positive.
        special = ragged | (start + BLOCK_N > column_count)
        special |= _overlaps(start, BLOCK_N, first_row + offset, BLOCK_M)
        if KIND == "views":
            special |= _overlaps(start, BLOCK_N, first_other + offset, BLOCK_M)
            special |= _overlaps(start, BLOCK_N, first_other + offset - row_count, BLOCK_M)
        if special:
            counts = row_inside[:, None] & column_inside[None, :]
            counts &= itself[:, None] != column[None, :]
            if KIND == "views":
                counts &= positive[:, None] != column[None, :]
            logits = tl.where(counts, logits, float("-inf"))

        if BOUNDED:
            weights = tl.exp2(logits - (_MIDDLE - lifted)) * (a[:, None] + b[None, :])
        else:
            column_shift = tl.load(column_shifts + column, mask=column_inside, other=float("inf"))
            weights = a[:, None] * tl.exp2(logits - row_shift[:, None])
            weights += b[None, :] * tl.exp2(logits - column_shift[None, :])

        if KIND == "labels":
            beta = tl.load(column_pull + column, mask=column_inside, other=0.0) * power
            column_label = tl.load(column_labels + column, mask=column_inside, other=0)
            same = row_label[:, None] == column_label[None, :]
            weights -= tl.where(same, alpha[:, None] + beta[None, :], 0.0)
            if special:
                weights = tl.where(itself[:, None] != column[None, :], weights, 0.0)
        else:
            if special:
                beta = tl.load(column_pull + column, mask=column_inside, other=0.0) * power
                pulled = positive[:, None] == column[None, :]
                weights -= tl.where(pulled, alpha[:, None] + beta[None, :], 0.0)
        sums = weighted_rows(weights, other, sums, PRECISION)

    sums *= tl.load(factor) / power
    if SPLIT:
        out += tl.program_id(1).to(tl.int64) * row_count * D
        store_rows(out, row, row_count, sums, D)
    else:
        finish_rows(sums, rows, row, row_count, inverse_norm, out, along, D)
