"""The end of every gradient: from sums over columns to the gradient of the rows as given."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.tiles import INTERPRETED, rounded
from edgessl.kernels.problem import Gradient, Rows

__all__ = [
    "block_width",
    "finish_rows",
    "finish_splits",
    "finishing_block",
    "load_splits",
    "store_rows",
]

_PART = tl.constexpr(32)
"""Columns that are finished at a time: accumulators fill half of the registers, and whole rows
beside them would spill."""


@triton.jit
def _part(matrix, rows, count, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Pointers to columns FIRST to FIRST + WIDTH of the rows, and which of them exist."""
    columns = FIRST + tl.arange(0, WIDTH)
    inside = rows[:, None] < count
    if FIRST + WIDTH > D:
        inside = inside & (columns[None, :] < D)
    return matrix + rows.to(tl.int64)[:, None] * D + columns[None, :], inside


@triton.jit
def _halves(x):
    """Left and right half of (A, 2·B); both stay in the registers that hold them."""
    A: tl.constexpr = x.shape[0]
    B: tl.constexpr = x.shape[1] // 2
    return tl.split(tl.permute(tl.reshape(x, (A, 2, B)), (0, 2, 1)))


@triton.jit
def _store(values, matrix, rows, count, FIRST: tl.constexpr, D: tl.constexpr):
    """Store values in the columns from FIRST on, as many as values has."""
    WIDTH: tl.constexpr = values.shape[1]
    if WIDTH > _PART:
        left, right = _halves(values)
        _store(left, matrix, rows, count, FIRST, D)
        _store(right, matrix, rows, count, FIRST + WIDTH // 2, D)
    else:
        place, inside = _part(matrix, rows, count, FIRST, WIDTH, D)
        tl.store(place, rounded(values, matrix.dtype.element_ty), mask=inside)


@triton.jit
def store_rows(matrix, rows, count, values, D: tl.constexpr):
    """Store (BLOCK, BLOCK_D) values, cast to the matrix' dtype; the counterpart of `load_rows`."""
    _store(values, matrix, rows, count, 0, D)


@triton.jit
def _lengthwise(gradient, values, rows, count, FIRST: tl.constexpr, D: tl.constexpr):
    """⟨gradient, values⟩ of each row over the columns from FIRST on, as many as gradient has."""
    WIDTH: tl.constexpr = gradient.shape[1]
    if WIDTH > _PART:
        left, right = _halves(gradient)
        first = _lengthwise(left, values, rows, count, FIRST, D)
        return first + _lengthwise(right, values, rows, count, FIRST + WIDTH // 2, D)
    else:
        place, inside = _part(values, rows, count, FIRST, WIDTH, D)
        unit = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        return tl.sum(gradient * unit, axis=1)


@triton.jit
def _store_across(
    gradient, lengthwise, norm, values, rows, count, out, FIRST: tl.constexpr, D: tl.constexpr
):
    """Store what of the gradient is across the rows; as `_lengthwise` from FIRST on."""
    WIDTH: tl.constexpr = gradient.shape[1]
    if WIDTH > _PART:
        left, right = _halves(gradient)
        _store_across(left, lengthwise, norm, values, rows, count, out, FIRST, D)
        FURTHER: tl.constexpr = FIRST + WIDTH // 2
        _store_across(right, lengthwise, norm, values, rows, count, out, FURTHER, D)
    else:
        place, inside = _part(values, rows, count, FIRST, WIDTH, D)
        unit = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        across = (gradient - unit * lengthwise[:, None]) * norm[:, None]
        _store(across, out, rows, count, FIRST, D)


@triton.jit
def finish_rows(
    gradient,
    values,
    rows,
    count,
    inverse_norm,
    out,
    along,
    D: tl.constexpr,
):
    """Store dz = (dẑ − ẑ·⟨dẑ, ẑ⟩)·inverse_norm in z's dtype and along = ⟨dẑ, ẑ⟩ in float32.

    ``gradient``: (BLOCK, BLOCK_D) float32, dẑ with every factor applied, 0 outside of the matrix;
    ``rows``: (BLOCK,). In memory: ``values`` (count, D), ẑ as it was compared; ``inverse_norm``
    (count,) float32, or None for rows that were not scaled: dz = dẑ then; ``out`` (count, D);
    ``along`` (count,).
    """
    lengthwise = _lengthwise(gradient, values, rows, count, 0, D)
    tl.store(along + rows, lengthwise, mask=rows < count)
    if inverse_norm is not None:
        norm = tl.load(inverse_norm + rows, mask=rows < count, other=0.0)
        _store_across(gradient, lengthwise, norm, values, rows, count, out, 0, D)
    else:
        store_rows(out, rows, count, gradient, D)


@triton.jit
def load_splits(
    partials,
    rows,
    count,
    first,
    splits,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PARTS: tl.constexpr,
):
    """(PARTS, ROWS, BLOCK_D) of (S, count, D), the splits from ``first`` on; ``rows``: (ROWS,)."""
    split = (first + tl.arange(0, PARTS))[:, None, None]
    rows = rows[None, :, None]
    columns = tl.arange(0, BLOCK_D)[None, None, :]
    inside = (split < splits) & (rows < count) & (columns < D)
    place = (split.to(tl.int64) * count + rows) * D + columns
    return tl.load(partials + place, mask=inside, other=0.0)


@triton.jit
def _finish_splits(
    partials,
    values,
    inverse_norm,
    out,
    along,
    count,
    splits,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    gradient = tl.zeros((ROWS, BLOCK_D), tl.float32)
    for first in range(0, splits, PARTS):
        part = load_splits(partials, rows, count, first, splits, D, BLOCK_D, PARTS)
        gradient += tl.sum(part, axis=0)
    finish_rows(gradient, values, rows, count, inverse_norm, out, along, D)


def finish_splits(partials: Tensor, rows: Rows) -> Gradient:
    """Gradient of rows from sums over parts of the columns, which are added in a fixed order.

    Args:
        partials: (S, A, D) float32 contiguous: parts of dẑ, with every factor applied.
        rows: (A, D), D ≤ 512, as they were compared; contiguous.
    """
    splits, count, width = partials.shape
    out = torch.empty_like(rows.values)
    along = torch.empty(count, dtype=torch.float32, device=out.device)
    block, parts = finishing_block(splits)
    launch(
        _finish_splits,
        (triton.cdiv(count, block),),
        partials,
        partials,
        rows.values,
        rows.inverse_norm,
        out,
        along,
        count,
        splits,
        D=width,
        BLOCK_D=block_width(width),
        ROWS=block,
        PARTS=parts,
        num_warps=4,
    )
    return Gradient(out, along)


def block_width(width: int) -> int:
    """Columns of the block that holds rows of D numbers: a power of two, 16 at least."""
    return max(16, int(triton.next_power_of_2(width)))


def finishing_block(splits: int) -> tuple[int, int]:
    """Rows of a program that adds parts of sums, and how many parts it loads at once.

    Parts that are loaded one after the other take long; the interpreter takes long by program.
    """
    parts = min(16, triton.next_power_of_2(splits))
    return 64 if INTERPRETED else 16 // parts, parts
