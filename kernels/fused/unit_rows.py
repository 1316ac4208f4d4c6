"""Rows scaled to unit length, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgessl.kernels.fused.launch import launch
from edgessl.kernels.fused.tiles import rounded
from edgessl.kernels.problem import Rows

__all__ = ["unit_rows"]

_ELEMENTS = 4096
"""Elements of one program: eight registers of each of its threads at D = 1024."""

_SMALLEST = tl.constexpr(1.1754943508222875e-38)
"""Smallest normal float32."""


@triton.jit
def _unit_rows(
    z, unit, inverse_norm, count, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK_D)
    inside = (rows[:, None] < count) & (columns[None, :] < D)
    place = rows.to(tl.int64)[:, None] * D + columns[None, :]
    values = tl.load(z + place, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(values), axis=1)
    # No test of `largest` itself: it may have lost a NaN, which the sum of squares keeps.
    largest = tl.where(largest == 0.0, 1.0, largest)
    shrunk = tl.div_rn(values, tl.broadcast_to(largest[:, None], values.shape))
    squares = tl.sum(shrunk * shrunk, axis=1)
    zero = squares == 0.0
    norm = tl.sqrt_rn(tl.where(zero, 1.0, squares))
    scaled = tl.div_rn(shrunk, tl.broadcast_to(norm[:, None], shrunk.shape))
    tl.store(unit + place, rounded(scaled, unit.dtype.element_ty), mask=inside)
    # 1/‖z‖ of rows of subnormal numbers is beyond float32; an infinity would make NaN of zeros.
    inverse = tl.div_rn(
        tl.div_rn(tl.full([ROWS], 1.0, tl.float32), norm), tl.maximum(largest, _SMALLEST)
    )
    tl.store(inverse_norm + rows, tl.where(zero, 0.0, inverse), mask=rows < count)


def unit_rows(z: Tensor) -> Rows:
    """Rows scaled to unit length in float32 and rounded once to z's dtype; zeros stay zeros.

    Each row is divided by its largest magnitude before it is squared, so that neither rows around
    1e-25 nor rows around 1e30 leave float32's range.

    Args:
        z: (A, D) float16, bfloat16 or float32.

    Returns:
        (A, D) in z's dtype and (A,) 1/‖z‖ in float32, 0 for rows of zeros.
    """
    z = z.contiguous()
    count, width = z.shape
    unit = torch.empty_like(z)
    inverse_norm = torch.empty(count, dtype=torch.float32, device=z.device)
    if count == 0:
        return Rows(unit, inverse_norm)
    block = triton.next_power_of_2(width)
    rows = max(1, _ELEMENTS // block)
    launch(
        _unit_rows,
        (triton.cdiv(count, rows),),
        z,
        z,
        unit,
        inverse_norm,
        count,
        D=width,
        BLOCK_D=block,
        ROWS=rows,
        num_warps=4,
    )
    return Rows(unit, inverse_norm)
