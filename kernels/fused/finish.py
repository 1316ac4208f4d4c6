"""The end of every gradient: from sums over columns to the gradient of the rows as given."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.tiles import load_rows
from edgessl.kernels.problem import Gradient, Rows

__all__ = ["finish_rows", "finish_splits", "store_rows"]

_BLOCK = 16


@triton.jit
def store_rows(matrix, rows, count, values, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store (BLOCK, BLOCK_D) values, cast to the matrix' dtype; the counterpart of `load_rows`."""
    columns = tl.arange(0, BLOCK_D)
    inside = rows[:, None] < count
    if BLOCK_D != D:
        inside = inside & (columns[None, :] < D)
    place = rows.to(tl.int64)[:, None] * D + columns[None, :]
    tl.store(matrix + place, values.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def finish_rows(
    gradient,
    unit,
    rows,
    count,
    inverse_norm,
    out,
    along,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Store dz = (dẑ − ẑ·⟨dẑ, ẑ⟩)·inverse_norm in z's dtype and along = ⟨dẑ, ẑ⟩ in float32.

    ``gradient``: (BLOCK, BLOCK_D) float32, dẑ with every factor applied; ``unit``: (BLOCK, BLOCK_D)
    ẑ as it was compared, both 0 where `load_rows` gives 0; ``rows``: (BLOCK,). ``inverse_norm``:
    (count,) float32, or None for rows that were not scaled: dz = dẑ then. ``out``: (count, D).
    """
    unit = unit.to(tl.float32)
    lengthwise = tl.sum(gradient * unit, axis=1)
    tl.store(along + rows, lengthwise, mask=rows < count)
    if inverse_norm is not None:
        norm = tl.load(inverse_norm + rows, mask=rows < count, other=0.0)
        gradient = (gradient - unit * lengthwise[:, None]) * norm[:, None]
    store_rows(out, rows, count, gradient, D, BLOCK_D)


@triton.jit
def _finish_splits(
    partials,
    values,
    inverse_norm,
    out,
    along,
    count,
    splits,
    stride,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    gradient = load_rows(partials, rows, count, D, BLOCK_D)
    for _ in range(splits - 1):
        partials += stride
        gradient += load_rows(partials, rows, count, D, BLOCK_D)
    unit = load_rows(values, rows, count, D, BLOCK_D)
    finish_rows(gradient, unit, rows, count, inverse_norm, out, along, D, BLOCK_D)


def finish_splits(partials: Tensor, rows: Rows) -> Gradient:
    """Gradient of rows from sums over parts of the columns, which are added in order.

    Args:
        partials: (S, A, D) float32 contiguous: parts of dẑ, with every factor applied.
        rows: (A, D), D ≤ 512, as they were compared; contiguous.
    """
    splits, count, width = partials.shape
    out = torch.empty_like(rows.values)
    along = torch.empty(count, dtype=torch.float32, device=out.device)
    _finish_splits[(triton.cdiv(count, _BLOCK),)](
        partials,
        rows.values,
        rows.inverse_norm,
        out,
        along,
        count,
        splits,
        partials.stride(0),
        D=width,
        BLOCK_D=max(16, triton.next_power_of_2(width)),
        BLOCK=_BLOCK,
        num_warps=4,
    )
    return Gradient(out, along)
